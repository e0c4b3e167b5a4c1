"""Write text with a trained GPT: `python sample.py --help`."""

import sys

from nanogpt.cli.sample import sample_main

if __name__ == "__main__":
    sys.exit(sample_main())
