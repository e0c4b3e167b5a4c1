"""Write text with a trained GPT: `python sample.py --help`."""

import sys

from nanogpt.__main__ import main

if __name__ == "__main__":
    sys.exit(main("sample"))
