"""One thread per test process: small models gain nothing from more, and two processes would wait for each other."""

import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell that starts the tests in the background has them, and all processes they start, ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
