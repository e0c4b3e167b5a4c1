"""`sample.py`: text from a trained model."""

import io
import sys
from typing import Any

from nanogpt.cli.door import command, given_text, guarded, parse, tell
from nanogpt.cli.flags import SampleFlags
from nanogpt.cli.habits import NANOGPT_SAMPLE, refuse_foreign
from nanogpt.errors import InputError
from nanogpt.sampling import checked_policy
from nanogpt.text.stop import checked_stops


def sample_main(arguments: list[str] | None = None) -> int:
    """`sample.py`. Returns its exit code: 0, or 2 for bad input."""
    return guarded(_sample, arguments)


def _sample(arguments: list[str]) -> int:
    refuse_foreign(arguments, NANOGPT_SAMPLE)
    flags = parse(SampleFlags, arguments, prog=command("sample"))
    if flags.num_samples < 1:
        raise InputError(f"num_samples {flags.num_samples} is out of range: it must be at least 1")
    options: dict[str, Any] = {
        "max_tokens": flags.max_tokens,
        "temperature": flags.temp,
        "top_k": flags.top_k,
        "top_p": flags.top_p,
        "seed": flags.seed,
    }
    checked_policy(**options)  # before the model, which may take long to load
    stops = checked_stops(flags.stop)
    prompt = given_text(flags.prompt)
    out_dir, model = flags.model.load()
    tell(f"{out_dir}, step {model.metadata.step:,}, {model.backend.name} on {model.backend.device}")
    if isinstance(sys.stdout, io.TextIOWrapper):
        # One encoding on every platform, and no crash where a locale lacks a character.
        sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    for sample in range(flags.num_samples):
        pieces = model.stream(prompt, **options, sample=sample, stop=stops)
        if sample:
            tell(f"\n--- sample {sample + 1} ---")
        for number, piece in enumerate(pieces):
            # The prompt waits for the first piece: an error leaves standard output empty.
            print(piece if number else prompt + piece, end="", flush=True)
        print()
    return 0
