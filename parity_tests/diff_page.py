"""docs/twins.md: the hunks of the twins' model.py side by side.

python -m parity_tests.diff_page
"""

import html
import textwrap

from parity_tests.diff import FILES, ROOT, WORDS, Line, hunks, size, sources

PAGE = """\
# The twins, side by side

`nanogpt_jax/` and `nanogpt_torch/` have the same files, with the same names in the same order. A reader who
knows one framework learns the other one from the lines that differ. `python -m parity_tests.diff` finds them.
It reads both files as syntax trees without imports, docstrings, annotations, the frameworks' prefixes
(`jnp.`, `nnx.`, `torch.`, `F.`), `rngs`, `device` and `super().__init__()`, and replaces these words:

| JAX and Flax | torch |
|---|---|
{words}
These hunks are left, counted in statements and heads of compound statements:

{sizes}

A test fails where no comment that begins with "Differs from" explains a hunk. The rest of this page, which
`python -m parity_tests.diff_page` writes, shows all hunks of `model.py`; the other lines of the two files are
the same.

<table>
<tr><th>nanogpt_jax/model.py</th><th>nanogpt_torch/model.py</th></tr>
{rows}</table>
"""


def page() -> str:
    texts = [source.splitlines() for source in sources("model")]
    rows = ""
    for hunk in hunks(*sources("model")):
        jax, torch = (
            html.escape(code(text, lines), quote=False)
            for text, lines in zip(texts, (hunk.jax, hunk.torch), strict=True)
        )
        place = (hunk.jax + hunk.torch)[0].place
        rows += f"<tr><td colspan=2><code>{place}</code></td></tr>\n"
        rows += f"<tr valign=top><td><pre>{jax}</pre></td>\n<td><pre>{torch}</pre></td></tr>\n"
    words = "".join(f"| `{jax}` | `{torch}` |\n" for torch, jax in WORDS.items())
    return PAGE.format(words=words, sizes="\n".join(f"- {size(name)}" for name in FILES), rows=rows)


def code(source: list[str], lines: list[Line]) -> str:
    """The source of lines that stand together, with the comments above them."""
    if not lines:
        return ""
    first = lines[0].first
    while source[first - 2].lstrip().startswith("#"):
        first -= 1
    return textwrap.dedent("\n".join(source[first - 1 : lines[-1].last]))


if __name__ == "__main__":
    (ROOT / "docs/twins.md").write_text(page(), encoding="utf-8")
