"""Train a GPT, or go on with its training: `python train.py --help`."""

import sys

from nanogpt.cli.signals import obey_signals

if __name__ == "__main__":
    obey_signals()  # before the imports, which take seconds
    from nanogpt.cli.train import train_main

    sys.exit(train_main())
