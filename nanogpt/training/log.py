"""The log of a run: losses become records, which reach the run's file and everyone who follows it."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from nanogpt.backend import Backend
from nanogpt.config import learning_rate_at
from nanogpt.errors import InputError
from nanogpt.record import Evaluation, Record
from nanogpt.training.hardware import model_flops_utilization
from nanogpt.training.pace import Pace, seconds_left
from nanogpt.training.run import Run


@dataclass(frozen=True)
class Progress:
    """A moment of a run, as followers see it."""

    kind: Literal["call", "log", "evaluation"]
    """A call of the backend is done; a log interval is over; the model was evaluated."""
    record: Record
    """The last step. Records of the kinds `log` and `evaluation` are lines of metrics.jsonl."""
    seconds_left: float | None = None
    """Seconds to the end of the run, where they are known."""


Follower = Callable[[Progress], None]


class Log:
    """Notes what a run measures, and tells its followers in turn."""

    def __init__(self, run: Run, backend: Backend, followers: Sequence[Follower]) -> None:
        self.run, self.backend, self.followers = run, backend, followers
        step, records = run.state.step, run.metrics.records
        self._last = records[-1] if records and records[-1].step == step else Record(step=step)
        self._begun = time.monotonic() - run.elapsed

    @property
    def elapsed(self) -> float:
        """Seconds of the run so far."""
        return time.monotonic() - self._begun

    def steps(self, steps: range, losses_K: np.ndarray, pace: Pace) -> None:
        """Note the losses of a call. Raises InputError when one is not finite."""
        config, recipe = self.run.config, self.run.config.training
        left = None
        if pace.is_known:
            times = (pace.step_seconds, pace.evaluation_seconds)
            left = seconds_left(steps.stop, recipe.max_iters, recipe.eval_interval, *times)
        speed = round(recipe.batch_size * self.run.splits.block_size / pace.step_seconds)
        mfu = model_flops_utilization(config.model, speed, self.backend.device_name, config.run.dtype)
        for step, loss in zip(steps, losses_K.tolist(), strict=True):
            if not math.isfinite(loss):
                raise self.diverged(f"the loss is {loss}", step + 1)
            self._last = Record(
                step=step + 1,
                loss=loss,
                learning_rate=learning_rate_at(step, recipe),
                tokens_per_second=speed,
                mfu=mfu,
                elapsed=round(self.elapsed, 3),
            )
            if (step + 1) % recipe.log_interval == 0 and not recipe.is_evaluated(step + 1):
                self.run.metrics.append(self._last)
                self._tell(Progress("log", self._last, left))
        self._tell(Progress("call", self._last, left))

    def evaluation(self, train_loss: float, val_loss: float, sample: str) -> None:
        """Note an evaluation after the last step. Raises InputError when a loss is not finite."""
        if not math.isfinite(train_loss + val_loss):
            raise self.diverged(f"the losses are {train_loss} and {val_loss}", self._last.step)
        last = asdict(self._last) | {"elapsed": round(self.elapsed, 3)}
        evaluation = Evaluation(**last, train_loss=train_loss, val_loss=val_loss, sample=sample)
        self.run.metrics.append(evaluation)
        self._tell(Progress("evaluation", evaluation))

    def evaluation_cut_short(self) -> None:
        """Note the last step as it is: the next start makes the evaluation, which tells of this step too."""
        self.run.metrics.append(self._last)

    def diverged(self, what: str, step: int) -> InputError:
        """The error of a training that has left the numbers, which says from where it can go on."""
        rate = learning_rate_at(max(0, step - 1), self.run.config.training)
        self.run.checkpoints.wait()
        good = self.run.checkpoints.steps
        advice = f"the same command goes on from step {good[-1]}" if good else "begin anew"
        return InputError(
            f"{what} at step {step}, with a learning rate of {rate:.3g}: with a lower --learning_rate "
            f"(and --min_lr) {advice}"
        )

    def _tell(self, progress: Progress) -> None:
        for follow in self.followers:
            follow(progress)


def forgiving(what: str, follow: Follower, warn: Callable[[str], None]) -> Follower:
    """A follower that writes `what`, and whose failures stop nothing: the training is worth more."""
    failures: list[Exception] = []

    def follow_on(progress: Progress) -> None:
        try:
            follow(progress)
        except Exception as error:
            if not failures:
                warn(f"{what} can't be written ({error}): the training goes on without")
            failures.append(error)

    return follow_on
