"""The whole job in small: data, retriever, ranker, a kill in the middle, a resume, a table.

    python examples/demo.py                    # ml-100k, smollm2-135m: minutes on two CPU cores
    python examples/demo.py --llm_base_model tiny

The same as `llamarec demo`, in the folder of the clone.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from llamarec.cli.main import main

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent.parent)
    sys.exit(main(["demo", *sys.argv[1:]]))
