"""The flags that people know from nanoGPT and that have another form here; docs/habits.md shows them all."""

from itertools import pairwise

from nanogpt.errors import InputError

NANOGPT = {
    "dataset": "--data takes a text file or a folder of them, or what `nanogpt prepare` wrote",
    "init_from=resume": "--out_dir names a run, which goes on by itself",
    "init_from=scratch": "a new run begins so without --init_from, and --out_dir of a run goes on by itself, "
    "unless --resume never",
    "eval_iters": "an evaluation is no estimate, but an exact mean over at most 262,144 tokens",
    "eval_only": "sample.py and visualize.py read a checkpoint, and report.md has its losses",
    "always_save_checkpoint": "every evaluation saves, and the last two and the best are kept",
    "lr_decay_iters": "the schedule ends at --max_iters",
    "decay_lr": "--min_lr as high as --learning_rate keeps the rate constant",
    "gradient_accumulation_steps": "--batch_size is the whole batch, computed --micro_batch_size at a time",
    "backend=nccl": "--backend chooses jax or torch, and torch's processes send by NCCL on CUDA",
    "backend=gloo": "--backend chooses jax or torch, and torch's processes send by gloo on a CPU",
    "dtype=float16": "--dtype bfloat16 needs no scaling of the loss",
    "wandb_log": "--log wandb is the same",
    "wandb_project": "--log wandb takes the project of WANDB_PROJECT",
    "wandb_run_name": "--log wandb takes the name of --out_dir",
    "start": "sample.py has --prompt, which takes a text, @file or -",
    "max_new_tokens": "sample.py has --max_tokens",
}
"""Flags of nanoGPT's train.py and sample.py, without dashes, and what takes their place.

A flag that is ours too stands here with the value that is nanoGPT's alone.
"""
NANOGPT_SAMPLE = {
    "init_from": "--out_dir names a run, and nanogpt import makes one of GPT-2's weights",
    "dtype": "text comes from float32, so that both backends write the same",
    "compile": "JAX always compiles, and torch generates without",
}
"""Flags of nanoGPT's sample.py that are ours in training alone."""


def refuse_foreign(arguments: list[str], foreign: dict[str, str] = NANOGPT) -> None:
    """Raise InputError, which names our way, for the first flag that is nanoGPT's alone."""
    for before, argument in pairwise(["", *arguments]):
        flag, _, value = argument.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--"):
            is_value = before.startswith("--") and "=" not in before
            if argument.endswith(".py") and not is_value:
                raise InputError(
                    f"{argument}: nanoGPT's configuration is Python; --config takes JSON or TOML"
                )
        elif ours := foreign.get(name):
            raise InputError(f"{flag} is nanoGPT's: {ours}")
        elif ours := foreign.get(f"{name}={value}"):
            raise InputError(f"{argument} is nanoGPT's: {ours}")
