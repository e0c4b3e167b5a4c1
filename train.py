"""Train a GPT, or go on with its training: `python train.py --help`."""

import sys

from nanogpt.cli.train import train_main

if __name__ == "__main__":
    sys.exit(train_main())
