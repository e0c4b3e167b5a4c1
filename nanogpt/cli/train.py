"""`train.py`: open a run, train it, and say how to go on."""

import shlex

from nanogpt.cli.door import command, guarded
from nanogpt.cli.flags import train_flags
from nanogpt.cli.signals import collected_signals
from nanogpt.processes import launched
from nanogpt.report.terminal import Terminal
from nanogpt.session import run_session, take_part


def train_main(arguments: list[str] | None = None) -> int:
    """`train.py`. Returns its exit code: 0, 2 for bad input, 128 + the number of a signal that stopped it."""
    return guarded(_train, arguments)


def _train(arguments: list[str]) -> int:
    launch = launched()
    if launch.number:  # another process reads the flags and speaks
        take_part(collected_signals)
        return 0
    flags = train_flags(arguments)
    terminal = Terminal(flags.quiet)
    session = run_session(
        flags.settings,
        flags.out_dir,
        resume=flags.resume,
        log=flags.log,
        device_is_given=flags.device_is_given,
        terminal=terminal,
        collect=collected_signals,
    )
    folder, recipe = shlex.quote(str(flags.out_dir)), session.run.config.training
    if session.received:
        again = (
            "start the same processes again" if launch.count > 1 else f"{command('train')} --out_dir {folder}"
        )
        terminal.say(f"Stopped and saved. To go on: {again}")
        return 128 + session.received[0]
    if session.was_finished:
        longer = f"--max_iters {2 * recipe.max_iters}"
        terminal.say(f"To train longer: {command('train')} --out_dir {folder} {longer}")
    terminal.say(f"To read what it writes: {command('sample')} --out_dir {folder}")
    return 0
