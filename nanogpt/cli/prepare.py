"""`nanogpt prepare`: texts of any size become tokens on the disk."""

import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from nanogpt.cli.door import command, guarded, parse
from nanogpt.cli.flags import PrepareFlags
from nanogpt.text.prepare import Tell, prepare

INTERVAL = 0.1  # seconds between two moves of the line


def prepare_main(arguments: list[str] | None = None) -> int:
    """`nanogpt prepare`. Returns its exit code: 0, or 2 for bad input."""
    return guarded(_prepare, arguments)


def _prepare(arguments: list[str]) -> int:
    flags = parse(PrepareFlags, arguments, takes_files=True, prog=command("prepare"))
    with _line() as tell:
        manifest = prepare(flags.texts, flags.tokenizer, flags.out, tell)
    train, validation = (sum(shard["tokens"] for shard in shards) for shards in manifest["shards"].values())
    print(
        f"{flags.out} has {train:,} tokens to train on and {validation:,} to validate on, "
        f"of {manifest['characters']:,} characters"
    )
    print(f"To train on it: {command('train')} --data {shlex.quote(str(flags.out))}")
    return 0


@contextmanager
def _line() -> Iterator[Tell]:
    """A line that moves on a terminal, and one for each stage elsewhere."""
    console = Console(highlight=False, emoji=False)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TaskProgressColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("")
        stage, moved = "", 0.0

        def tell(what: str, done: int, total: int) -> None:
            nonlocal stage, moved
            if what != stage:
                stage, moved = what, 0.0
                progress.reset(task, description=what)
                if not console.is_terminal:
                    print(what, flush=True)
            if time.monotonic() - moved > INTERVAL:
                moved = time.monotonic()
                progress.update(task, completed=done, total=total or None)

        yield tell
