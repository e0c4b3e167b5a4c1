"""Show what every attention head of a trained GPT does: `python visualize.py --help`."""

import sys

from nanogpt.cli.visualize import visualize_main

if __name__ == "__main__":
    sys.exit(visualize_main())
