"""One thread per test process: small models gain nothing from more, and two processes would wait for each other."""

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
