"""Write text with a trained GPT: `python sample.py --help`."""

import sys

from nanogpt.cli.signals import obey_signals

if __name__ == "__main__":
    obey_signals()  # before the imports, which take seconds
    from nanogpt.cli.sample import sample_main

    sys.exit(sample_main())
