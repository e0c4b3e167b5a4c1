"""Train a GPT, or go on with its training: `python train.py --help`."""

import sys

from nanogpt.__main__ import main

if __name__ == "__main__":
    sys.exit(main("train"))
