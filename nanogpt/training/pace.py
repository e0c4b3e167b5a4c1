"""The pace of a run: what a step takes, how many steps the next call has, and what is left."""

import time
from collections import deque
from statistics import median_low

from nanogpt.backend import MAX_STEPS_PER_CALL

# Target and upper bound for one call: Ctrl-C waits for it, or for two of half the time. Each call allocates
# its memory anew, which costs a CPU 2 % of a second.
SECONDS_PER_CALL = 2.5
RECENT_CALLS = 5


class Pace:
    """Seconds of a step, by the median of the last calls, and of the last evaluation.

    The first call, which compiles, and one during which the machine slept don't move the median of five.
    """

    def __init__(self) -> None:
        self.evaluation_seconds = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT_CALLS)

    @property
    def is_known(self) -> bool:
        """False until five calls are done: the first one also compiles, and all of them are short."""
        return len(self._recent) == RECENT_CALLS

    @property
    def step_seconds(self) -> float:
        """Seconds of a step; 0 before the first call is done."""
        return median_low(self._recent or [0.0])

    def start(self, step: int) -> None:
        """Begin to measure at `step`."""
        self._begun, self._first = time.perf_counter(), step

    def lap(self, step: int) -> None:
        """Measure a call that ended at `step`, and begin to measure the next one."""
        now = time.perf_counter()
        self._recent.append((now - self._begun) / (step - self._first))
        self._begun, self._first = now, step


def next_call_length(length: int, step_seconds: float) -> int:
    """Steps of the next call, after one of `length` steps: doubled or halved towards SECONDS_PER_CALL."""
    if 2 * length * step_seconds < SECONDS_PER_CALL:
        return min(2 * length, MAX_STEPS_PER_CALL)
    return length if length * step_seconds <= SECONDS_PER_CALL else max(1, length // 2)


def seconds_left(
    step: int, max_iters: int, eval_interval: int, step_seconds: float, evaluation_seconds: float
) -> float:
    """Seconds from `step`, which is not evaluated yet, to the end: of steps and evaluations like the last."""
    evaluations_left = -(-max_iters // eval_interval) - -(-step // eval_interval) + 1
    return (max_iters - step) * step_seconds + evaluations_left * evaluation_seconds
