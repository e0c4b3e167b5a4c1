"""The training loop: dispatch ahead, log behind, evaluate, save.

It drives either backend, and knows nobody who follows the run (log.py).
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from typing import NamedTuple

import numpy as np

from nanogpt.ahead import ahead
from nanogpt.backend import MAX_STEPS_PER_CALL, Backend
from nanogpt.checkpoint import NotFiniteError
from nanogpt.training.batches import step_inputs
from nanogpt.training.evaluation import evaluate
from nanogpt.training.log import Follower, Log
from nanogpt.training.pace import SECONDS_PER_CALL, Pace, next_call_length
from nanogpt.training.run import Run


class Call(NamedTuple):
    """Steps that were handed to the device, and the function that waits for their losses."""

    steps: range
    read_losses: Callable[[], np.ndarray]


class Training:
    """A run on a backend."""

    def __init__(self, run: Run, backend: Backend, followers: Sequence[Follower] = ()) -> None:
        self.run, self.backend, self.recipe = run, backend, run.config.training
        self.step = run.state.step
        self.log, self.pace = Log(run, backend, followers), Pace()
        self._call_length = 1

    @property
    def is_worth_saving(self) -> bool:
        """True from the first step of this start on."""
        return self.step > self.run.state.step

    def to_the_end(self, received: Sequence[int] = ()) -> None:
        """Train to max_iters, or until a signal was received, and save.

        Raises InputError when the loss is no longer a number.
        """
        interval, last = self.recipe.eval_interval, self.recipe.max_iters
        evaluated = {record.step for record in self.run.metrics.evaluations}
        while True:
            if self.recipe.is_evaluated(self.step) and self.step not in evaluated:
                begun = time.perf_counter()
                if evaluation := evaluate(self.run, self.backend, received):
                    self.log.evaluation(*evaluation)
                    self._save()
                else:
                    self.log.evaluation_cut_short()
                self.pace.evaluation_seconds = time.perf_counter() - begun
            if received or self.step >= last:
                break
            self.steps_to(min((self.step // interval + 1) * interval, last), received)
        self._save()
        self.run.checkpoints.wait()

    def steps_to(self, stop: int, received: Sequence[int] = ()) -> None:
        """Train to step `stop`, or until a signal was received."""
        self.pace.start(self.step)
        for call in one_ahead(self._calls(stop, received), self._is_waited_for):
            losses_K = call.read_losses()
            self.pace.lap(call.steps.stop)
            self.log.steps(call.steps, losses_K, self.pace)
            self._call_length = next_call_length(self._call_length, self.pace.step_seconds)
            self.step = call.steps.stop

    def _is_waited_for(self) -> bool:
        """True where the host itself computes, or where a signal should not wait for two calls."""
        is_long = self._call_length * self.pace.step_seconds > SECONDS_PER_CALL / 2
        return is_long or self.backend.device == "cpu"

    def _calls(self, stop: int, received: Sequence[int]) -> Iterator[Call]:
        """Hand the steps up to `stop` to the device, call by call."""
        draw = partial(self.run.splits.batch, self.recipe.seed, batch_size=self.recipe.batch_size)
        step = self.step
        with closing(ahead(map(draw, range(step, stop)), MAX_STEPS_PER_CALL)) as batches:
            while step < stop and not received:
                steps = range(step, min(step + self._call_length, stop))
                yield Call(
                    steps, self.backend.train(*step_inputs(lambda _: next(batches), steps, self.recipe))
                )
                step = steps.stop

    def _save(self) -> None:
        try:
            self.run.save(self.backend.state(), self.backend.name, self.log.elapsed)
        except NotFiniteError:
            raise self.log.diverged("the weights or moments are not finite", self.step) from None


def one_ahead(calls: Iterable[Call], is_waited_for: Callable[[], bool]) -> Iterator[Call]:
    """Each call, once the next one has been handed over: the device computes while the host reads losses.

    One that is waited for comes as soon as it has been handed over itself.
    """
    previous = None
    for call in calls:
        if previous:
            yield previous
        previous = call
        if is_waited_for():
            yield previous
            previous = None
    if previous:
        yield previous
