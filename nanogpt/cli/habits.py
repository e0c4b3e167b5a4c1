"""The flags that people know from nanoGPT and that have another form here."""

import re

from nanogpt.errors import InputError

NANOGPT = {
    "dataset": "--data takes a text file or a folder of them, which needs no preparation",
    "init_from": "a run goes on by itself (--resume never begins anew), and `import` takes GPT-2's weights",
    "eval_iters": "an evaluation is an exact mean over the whole split",
    "eval_only": "sample.py and visualize.py read a checkpoint, and report.md has its losses",
    "always_save_checkpoint": "every evaluation saves, and the last two and the best are kept",
    "lr_decay_iters": "the schedule ends at --max_iters",
    "decay_lr": "--min_lr as high as --learning_rate keeps the rate constant",
    "gradient_accumulation_steps": "--batch_size is the whole batch, which a CPU computes in micro-batches",
    "wandb_log": "--log wandb is the same",
    "wandb_project": "--log wandb takes the project of WANDB_PROJECT",
    "wandb_run_name": "--log wandb takes the name of --out_dir",
    "start": "sample.py has --prompt, which takes a text, @file or -",
    "max_new_tokens": "sample.py has --max_tokens",
}
"""Flags of nanoGPT's train.py and sample.py, without dashes, and what takes their place."""


def refuse_foreign(arguments: list[str]) -> None:
    """Raise InputError, which names our way, for the first flag that is nanoGPT's alone."""
    for argument in arguments:
        name = re.match(r"--([\w-]+)|config/\w+\.py$", argument)
        if name and not name[1]:
            raise InputError(f"{argument}: nanoGPT's configuration is Python; --config takes JSON or TOML")
        if name and (ours := NANOGPT.get(name[1].replace("-", "_"))):
            raise InputError(f"--{name[1]} is nanoGPT's: {ours}")
