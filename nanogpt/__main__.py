"""`nanogpt COMMAND`, which is also `python -m nanogpt COMMAND`; `train.py` and its likes come here too."""

import importlib
import sys
from difflib import get_close_matches

from nanogpt.cli.signals import obey_signals
from nanogpt.version import __version__

COMMANDS = {
    "train": ("nanogpt.cli.train:train_main", "Train a GPT, or go on with its training."),
    "sample": ("nanogpt.cli.sample:sample_main", "Write text with a trained model."),
    "visualize": (
        "nanogpt.cli.visualize:visualize_main",
        "Write a page that shows what the heads attend to.",
    ),
    "prepare": ("nanogpt.cli.prepare:prepare_main", "Make tokens of texts of any size, to train on."),
    "export": (
        "nanogpt.cli.huggingface:export_main",
        "Write a checkpoint as a GPT-2 folder of transformers, or as a page.",
    ),
    "import": (
        "nanogpt.cli.huggingface:import_main",
        "Make a GPT-2 folder of transformers the start of a run.",
    ),
    "doctor": ("parity_tests.doctor:doctor_main", "Test whether the twins agree on this machine."),
}
"""The function of each command, which returns its exit code, and what it does."""


def main(name: str | None = None) -> int:
    """Run the command of this name, or the one that the command line begins with. Returns its exit code."""
    obey_signals()  # before the imports, which take seconds
    arguments = sys.argv[1:]
    if name is None:
        name, *arguments = arguments or ["--help"]
    if name in ("--help", "-h"):
        print(HELP)
        return 0
    if name == "--version":
        print(f"nanogpt-twice {__version__}")
        return 0
    if name not in COMMANDS:
        near = "".join(f": is it {other}?" for other in get_close_matches(name, COMMANDS, n=1))
        print(
            f"error: there is no command {name!r}{near or ': take one of ' + ', '.join(COMMANDS)}",
            file=sys.stderr,
        )
        return 2
    module, _, function = COMMANDS[name][0].partition(":")
    return getattr(importlib.import_module(module), function)(arguments)


HELP = "\n".join(
    [
        "usage: nanogpt COMMAND ...    (nanogpt COMMAND --help shows its flags)\n",
        *(f"  {name:10} {what}" for name, (_, what) in COMMANDS.items()),
        "  --version  Print the version.",
    ]
)

if __name__ == "__main__":
    sys.exit(main())
