"""Show what every attention head of a trained GPT does: `python visualize.py --help`."""

import sys

from nanogpt.cli.signals import obey_signals

if __name__ == "__main__":
    obey_signals()  # before the imports, which take seconds
    from nanogpt.cli.visualize import visualize_main

    sys.exit(visualize_main())
