"""Sentences that state the measurements of one head, for the page."""

from nanogpt.heads.detectors import INDUCTION
from nanogpt.heads.report import EXCESS_THRESHOLD, LOSS_INCREASE_THRESHOLD, Head
from nanogpt.heads.scores import Estimate


def describe(
    head: Head, clear: list[str], meanings: dict[str, str], unit: str, repeats_uniform: float
) -> str:
    """A few sentences on a head: its attention, its induction and its effect on the loss.

    `clear` names the detectors whose excess is clearly above the threshold, the largest first.
    `meanings` and `unit` are those of detectors.py, `repeats_uniform` that of the report.
    """
    parts = [_attention(head, clear, meanings, unit)]
    if INDUCTION in head.scores and head.scores[INDUCTION].excess.low > EXCESS_THRESHOLD:
        parts.append(_induction(head.repeats, repeats_uniform, unit, is_real=INDUCTION in clear))
    parts.append(_loss_increase(head.loss_increase, unit))
    return " ".join(parts)


def _attention(head: Head, clear: list[str], meanings: dict[str, str], unit: str) -> str:
    best, *others = clear or [max(head.scores, key=lambda name: head.scores[name].excess.mean)]
    score = head.scores[best]
    share, chance = _percent(score.share.mean), _percent(score.share.mean - score.excess.mean)
    text = f"{share} of its attention goes to {meanings[best]}; by chance it would be {chance}."
    if others:
        also = (f"{meanings[name]} ({_percent(head.scores[name].share.mean)})" for name in others)
        text += f" It also gives a large share to {' and '.join(also)}."
    if score.excess.low <= EXCESS_THRESHOLD:
        text = (
            f"No role fits it. The nearest one: {text} Its attention is as spread out as uniform attention "
            f"over {2**head.entropy.mean:.0f} {unit}s, at a mean distance of {head.distance.mean:.0f}."
        )
    return text


def _induction(repeats: Estimate, uniform: float, unit: str, *, is_real: bool) -> str:
    text = (
        f"On random {unit}s written twice, induction gets {_percent(repeats.mean)} of its attention; "
        f"by chance it would be {_percent(uniform)}"
    )
    return f"{text}." if is_real else f"{text}, so this is not induction."


def _loss_increase(increase: Estimate, unit: str) -> str:
    verb = "falls" if increase.mean < 0 else "rises"
    range_ = f"({increase.low:+z.4f} to {increase.high:+z.4f})"
    change = f"the loss {verb} by {abs(increase.mean):.4f} nats a {unit} {range_}"
    if increase.low > LOSS_INCREASE_THRESHOLD:
        return f"Without the head {change}."
    if increase.high > LOSS_INCREASE_THRESHOLD:
        return f"It is uncertain whether the model needs it: without it {change}."
    return f"The model hardly needs it: without it {change}."


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
