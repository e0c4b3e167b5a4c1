"""The pace of a run is that of its last calls, whatever a call before them took."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanogpt.training.pace
from nanogpt.backend import MAX_STEPS_PER_CALL
from nanogpt.training.pace import RECENT_CALLS, SECONDS_PER_CALL, Pace, next_call_length

SLEEPS = st.floats(0, 1e7)  # seconds, up to four months


class Clocked:
    """A pace whose calls take the seconds that they are told, with the call length that follows from it."""

    def __init__(self) -> None:
        self.pace, self.length, self.step, self.now = Pace(), 1, 0, 0.0
        self.start()

    def start(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nanogpt.training.pace, "time", self)
            self.pace.start(self.step)

    def perf_counter(self) -> float:
        return self.now

    def call(self, step_seconds: float, sleep: float = 0.0) -> None:
        self.step += self.length
        self.now += self.length * step_seconds + sleep
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(nanogpt.training.pace, "time", self)
            self.pace.lap(self.step)
        self.length = next_call_length(self.length, self.pace.step_seconds)


@given(
    step_seconds=st.floats(1e-3, 10),
    noise=st.lists(st.floats(1, 1.1), min_size=20, max_size=20),
    compiling=SLEEPS,
    sleep=SLEEPS,
    before=st.integers(1, 12),
)
def test_a_stall_is_forgotten_within_a_few_calls(
    step_seconds: float, noise: list[float], compiling: float, sleep: float, before: int
) -> None:
    """Two calls after it the pace is right again, or never was wrong, and calls keep their length."""
    clock = Clocked()
    for number, factor in enumerate(noise):
        clock.call(step_seconds * factor, {0: compiling, before: sleep}.get(number, 0.0))
        is_long_ago = number >= before + 2 or RECENT_CALLS <= number <= before
        if number + 1 >= RECENT_CALLS and is_long_ago:
            assert clock.pace.is_known
            assert step_seconds * 0.99 <= clock.pace.step_seconds <= step_seconds * 1.11
        if number % 5 == 4:  # An evaluation comes between.
            clock.now += 50
            clock.start()
    ideal = SECONDS_PER_CALL / step_seconds
    assert max(1, min(ideal / 2.5, MAX_STEPS_PER_CALL / 2)) <= clock.length <= max(1, ideal)


@given(before=st.floats(1e-3, 10), after=st.floats(1e-3, 10))
def test_a_pace_that_stays_is_taken_over(before: float, after: float) -> None:
    clock = Clocked()
    for _ in range(8):
        clock.call(before)
    for _ in range(3):
        clock.call(after)
    assert clock.pace.step_seconds == pytest.approx(after)


def test_nothing_is_known_of_a_run_that_has_not_made_a_few_calls() -> None:
    clock = Clocked()
    told = []
    for _ in range(RECENT_CALLS):
        told.append(clock.pace.is_known)
        clock.call(1.0)
    assert not any(told)
    assert clock.pace.is_known
