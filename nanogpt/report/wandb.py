"""`--log wandb`: the numbers of metrics.jsonl on Weights & Biases, or with WANDB_MODE=offline in a file."""

import os
from dataclasses import asdict

from nanogpt.errors import InputError, told_in_a_line
from nanogpt.report.tensorboard import TAGS
from nanogpt.training.log import Progress
from nanogpt.training.run import Run


class WandbLog:
    """A run of Weights & Biases as a follower of ours: the records up to now, then each new one."""

    def __init__(self, run: Run) -> None:
        """Raises InputError where wandb is not installed, or can't begin."""
        try:
            import wandb
        except ImportError:
            raise InputError(
                'for --log wandb, install it: pip install -c constraints.txt -e ".[wandb]"'
            ) from None
        with told_in_a_line("--log wandb can't begin"):
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", "nanogpt-twice"),
                name=run.out_dir.resolve().name,
                dir=run.out_dir,
                config=asdict(run.config),
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True),
            )
        for record in run.metrics.records:
            self(Progress("log", record))

    def __call__(self, progress: Progress) -> None:
        if progress.kind != "call":
            measured = progress.record.as_dict()
            values = {tag: measured[key] for key, tag in TAGS.items() if measured[key] is not None}
            self._run.log(values, step=progress.record.step)
