"""Show what every attention head of a trained GPT does: `python visualize.py --help`."""

import sys

from nanogpt.__main__ import main

if __name__ == "__main__":
    sys.exit(main("visualize"))
