"""The one training loop, which drives either backend."""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NamedTuple

import numpy as np

from nanogpt.backend import MAX_STEPS_PER_CALL, Backend
from nanogpt.config import learning_rate_at
from nanogpt.errors import InputError
from nanogpt.hardware import model_flops_utilization
from nanogpt.head_log import HeadLog
from nanogpt.language_model import LanguageModel, mean_loss
from nanogpt.metrics import Record, Reporter, seconds_left
from nanogpt.randomness import dropout_keys
from nanogpt.run import Run

# About, and at most. A Ctrl-C waits for the two calls in flight; each call takes its memory anew, which costs
# a CPU 2 % of a second.
SECONDS_PER_CALL = 2.5
SAMPLE_TOKENS = 100  # of the text written at each evaluation


class Dispatch(NamedTuple):
    """Steps that were handed to the device, and the way to their losses."""

    first: int
    read_losses: Callable[[], np.ndarray]


class Training:
    """A run on a backend: dispatches of a few steps, an evaluation and a save every eval_interval steps."""

    def __init__(self, run: Run, backend: Backend, reporter: Reporter) -> None:
        self.run, self.backend, self.reporter = run, backend, reporter
        self.config = run.config.training
        self.step = run.state.step
        self._heads = HeadLog(run)
        self._last: Record = {
            "step": self.step,
            "loss": None,
            "learning_rate": None,
            "tokens_per_second": None,
            "mfu": None,
        }
        self._begun = time.monotonic() - run.elapsed
        self._steps_per_call = 1
        self._evaluation_seconds = 0.0  # of the last one

    def to_the_end(self) -> int | None:
        """Train to max_iters. Returns the signal that stopped it early, if one did.

        Raises InputError when the loss is no longer a number.
        """
        evaluated = {record["step"] for record in self.run.metrics.evaluations}
        with stop_signals() as received, self.reporter.following(self.step, self.config.max_iters):
            while True:
                if self._is_evaluated(self.step) and self.step not in evaluated:
                    self._evaluate()
                if received or self.step >= self.config.max_iters:
                    break
                self._train_to_next_evaluation(received)
            self._save()
            self.run.checkpoints.wait()
        return received[0] if received else None

    def _is_evaluated(self, step: int) -> bool:
        return step % self.config.eval_interval == 0 or step == self.config.max_iters

    def _train_to_next_evaluation(self, received: list[int]) -> None:
        """Keep one dispatch ahead: the device works on it while the host reads the one before."""
        interval = self.config.eval_interval
        end = min((self.step // interval + 1) * interval, self.config.max_iters)
        self._clock = (time.monotonic(), self.step)
        ahead = None
        while True:
            dispatched = self._dispatch(end) if self.step < end and not received else None
            if ahead:
                self._log(ahead)
            if dispatched is None:
                return
            ahead = dispatched

    def _dispatch(self, end: int) -> Dispatch:
        seed, batch_size = self.config.seed, self.config.batch_size
        steps = range(self.step, min(self.step + self._steps_per_call, end))
        tokens_KBT1 = np.stack([self.run.splits.batch(seed, step, batch_size) for step in steps])
        keys_KB2 = np.stack([dropout_keys(seed, step, np.arange(batch_size)) for step in steps])
        learning_rate_K = np.array([learning_rate_at(step, self.config) for step in steps], np.float32)
        self.step = steps.stop
        return Dispatch(steps.start, self.backend.train(tokens_KBT1, keys_KB2, learning_rate_K))

    def _log(self, dispatch: Dispatch) -> None:
        """Wait for the losses of a dispatch and note them."""
        losses_K = dispatch.read_losses()
        end = dispatch.first + len(losses_K)
        seconds = self._pace(dispatch.first, end)
        left = None
        if dispatch.first != self.run.state.step:  # the first call also compiled
            total, interval = self.config.max_iters, self.config.eval_interval
            left = seconds_left(end, total, interval, seconds, self._evaluation_seconds)
        speed = round(self.config.batch_size * self.run.splits.block_size / seconds)
        config = self.run.config
        mfu = model_flops_utilization(config.model, speed, self.backend.device_name, config.run.dtype)
        for step, loss in enumerate(losses_K.tolist(), dispatch.first + 1):
            if not math.isfinite(loss):
                raise InputError(
                    f"the loss is {loss} at step {step}: lower --learning_rate and start again, "
                    "from the last checkpoint or anew"
                )
            rate = learning_rate_at(step - 1, self.config)
            self._last = {
                "step": step,
                "loss": loss,
                "learning_rate": rate,
                "tokens_per_second": speed,
                "mfu": mfu,
            }
            if step % self.config.log_interval == 0 and not self._is_evaluated(step):
                self._record()
                self.reporter.line(self._last, left)
        self.reporter.step(self._last, left)

    def _pace(self, first: int, last: int) -> float:
        """Seconds a step, on average since the last evaluation; chooses the length of the next dispatch."""
        began, since = self._clock
        now = time.monotonic()
        seconds = (now - began) / (last - since)
        if first == self.run.state.step:
            # The first call also compiled: it says nothing about the others.
            self._clock = (now, last)
        elif 2 * self._steps_per_call * seconds < SECONDS_PER_CALL:
            self._steps_per_call = min(2 * self._steps_per_call, MAX_STEPS_PER_CALL)
        elif self._steps_per_call * seconds > SECONDS_PER_CALL:
            self._steps_per_call = max(1, self._steps_per_call // 2)
        return seconds

    def _evaluate(self) -> None:
        """Measure both losses exactly, write a short text, note them, and save."""
        began = time.monotonic()
        splits = self.run.splits
        train_loss, val_loss = (
            mean_loss(self.backend, tokens_N, splits.block_size)
            for tokens_N in (splits.training_sample(), splits.validation_tokens())
        )
        record = self._record(train_loss, val_loss, self._sample())
        self._heads.append(self.step, self.backend)
        self._save()
        self.reporter.evaluation(record)
        self._evaluation_seconds = time.monotonic() - began

    def _sample(self) -> str:
        """A text that shows what was learned: from evaluation to evaluation the model alone changes."""
        tokenizer = self.run.tokenizer
        model = LanguageModel(self.backend, self.run.config.model, tokenizer, {})
        first = tokenizer.decode(self.run.splits.train_N[:1])
        prompt = "\n" if "\n" in (tokenizer.vocabulary or "") else first
        return model.generate(prompt, max_tokens=SAMPLE_TOKENS, seed=self.config.seed)

    def _record(
        self, train_loss: float | None = None, val_loss: float | None = None, sample: str | None = None
    ) -> Record:
        measured = {"train_loss": train_loss, "val_loss": val_loss, "elapsed": round(self._elapsed, 3)}
        record = self._last | measured | {"sample": sample}
        self.run.metrics.append(record)
        return record

    def _save(self) -> None:
        self.run.save(self.backend.state(), self.backend.name, self._elapsed)

    @property
    def _elapsed(self) -> float:
        return time.monotonic() - self._begun


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying of them; a second one acts as ever."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received  # python delivers signals to the main thread alone
        return

    def receive(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {
        number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
