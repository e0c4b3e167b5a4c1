"""The twins read line beside line: the same files, and no difference that a comment does not explain."""

import pytest

from parity_tests.diff import FILES, ROOT, Line, hunks, lines_of, sources
from parity_tests.diff_page import page

pytestmark = pytest.mark.thorough


def test_the_twins_have_the_same_files() -> None:
    """But for sharding.py: in torch, FSDP2 knows where arrays lie. distributed.py is each framework's own."""
    for twin in ("nanogpt_jax", "nanogpt_torch"):
        files = {file.stem for file in (ROOT / twin).glob("*.py")}
        assert files - {"sharding"} == {*FILES, "distributed", "__init__"}


@pytest.mark.parametrize("name", FILES)
def test_every_difference_is_explained(name: str) -> None:
    unexplained = [str(hunk) for hunk in hunks(*sources(name)) if not hunk.is_explained]
    assert not unexplained, "\n\n".join(unexplained)


@pytest.mark.parametrize("name", FILES)
def test_the_twins_have_the_same_names_in_the_same_order(name: str) -> None:
    """Classes, functions, methods and constants, private ones too; a twin's own ones are explained."""
    explained = {
        line.text for hunk in hunks(*sources(name)) for line in hunk.jax + hunk.torch if hunk.is_explained
    }
    both = [
        [line.text for line in lines_of(source) if is_name(line) and line.text not in explained]
        for source in sources(name)
    ]
    assert both[0] == both[1]


def is_name(line: Line) -> bool:
    text = line.text.strip()
    return text.startswith(("def ", "class ")) or not line.place


@pytest.mark.repository
def test_the_page_shows_the_files_as_they_are() -> None:
    """If this fails, run `python -m parity_tests.diff_page`."""
    assert (ROOT / "docs/twins.md").read_text(encoding="utf-8") == page()


PLAIN = '''
def attend(query_BTD: {array}, key_BTD: {array}) -> {array}:
    """Words of the {framework}."""
    scores = {stack}([query_BTD, key_BTD], {axis}=-1)
    return {softmax}(scores)
'''
JAX = PLAIN.format(array="jax.Array", framework="one", stack="jnp.stack", axis="axis", softmax="nnx.softmax")
TORCH = PLAIN.format(array="Tensor", framework="other", stack="torch.stack", axis="dim", softmax="F.softmax")


def test_the_frameworks_own_words_are_no_difference() -> None:
    assert hunks(JAX, TORCH) == []


@pytest.mark.parametrize(
    ("line", "comment", "is_explained"),
    [
        ("return", "    # Differs from jax: for a reason.\n", True),
        ("return", "    # It differs from jax.\n", False),
        ("return", "", False),
        ("scores =", "    # Differs from jax: for a reason.\n", True),
    ],
)
def test_a_hunk_needs_its_comment(line: str, comment: str, is_explained: bool) -> None:
    changed = TORCH.replace("-1", "-2") if line == "scores =" else TORCH.replace("scores)", "2 * scores)")
    (hunk,) = hunks(JAX, changed.replace(f"    {line}", f"{comment}    {line}"))
    assert hunk.is_explained == is_explained


def test_a_comment_explains_no_other_function() -> None:
    explained = TORCH.replace("    scores", "    # Differs from jax: for a reason.\n    scores")
    other = TORCH.replace("attend", "other")
    assert hunks(JAX * 2, explained + TORCH) == []
    (hunk,) = hunks(JAX + JAX.replace("attend", "other"), explained + other.replace("-1", "-2"))
    assert not hunk.is_explained


def test_no_line_of_the_model_can_be_left_out_of_one_twin() -> None:
    """Each statement in turn, of those that no comment explains, is replaced in the torch twin."""
    jax, torch = sources("model")
    unnoticed, tried = [], 0
    for line in lines_of(torch):
        if line.reasons or not line.place or line.text.strip().startswith(("def ", "class ", "@")):
            continue
        text = torch.splitlines()
        indent = text[line.first - 1][: -len(text[line.first - 1].lstrip())]
        changed = "if changed:" if line.text.endswith(":") else "changed()"
        text[line.first - 1 : line.last] = [indent + changed]
        tried += 1
        if all(hunk.is_explained for hunk in hunks(jax, "\n".join(text))):
            unnoticed.append(line.text)
    assert tried > 70
    assert not unnoticed
