"""The page as one file: figures as JSON, scripts and style. It loads nothing from outside."""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from string import Template
from typing import Any

# Each script imports from earlier ones alone, and the last one starts the page.
SCRIPTS = (
    *("state", "base64", "data", "words", "colours", "elements"),
    *("pictures", "explore", "announcements", "formation", "cards", "tour"),
    *("softmax", "generation", "writer", "live", "start"),
)
# The worker of a page that holds its model.
WORKER = ("softmax", "model", "generation", "randomness", "ablation", "base64", "weights", "worker")
_FOLDER = resources.files("nanogpt.page")
_IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(?:(?:async )?function|class|const) (?:(\w+)|\{([^}]*)\}))", re.MULTILINE)


def page(figures: dict[str, Any], title: str) -> str:
    """The HTML document that shows the figures of contents.py."""
    style, document = (_read(name) for name in ("attention.css", "attention.html"))
    script = bundle(SCRIPTS)
    worker = f'<script type="text/plain" id="worker">{bundle(WORKER)}</script>\n' if figures["live"] else ""
    return Template(document).substitute(
        style=style,
        style_hash=_hash(style),
        script=script,
        script_hash=_hash(script),
        worker=worker,
        # The script makes a blob of the worker's text, which is all that it may start.
        worker_source=" worker-src blob:;" if worker else "",
        data=_as_json(figures),
        title=html.escape(title),
        summary=_summary(figures["report"]),
        unit=figures["unit"],
    )


def bundle(names: Sequence[str]) -> str:
    """The modules of these names as one script, since a page in one file has no address to import from.

    Each module becomes a function of its own, which returns what the module exports to the later ones.
    """
    script = ""
    for name in names:
        source = _read(f"{name}.js")
        exported = ", ".join(plain or several.strip() for plain, several in _EXPORT.findall(source))
        body = _EXPORT.sub("", _IMPORT.sub(r"const \1 = \2_js;", source))
        script += f"const {name}_js = (() => {{\n{body}return {{ {exported} }};\n}})();\n\n"
    return script


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _summary(report: dict[str, Any] | None) -> str:
    """The sentences on all heads as HTML, for readers without JavaScript."""
    if not report:
        return "<p>The pictures need JavaScript.</p>"
    items = [
        f"<li>Layer {head['layer']}, head {head['head']}: {html.escape(head['sentence'])}</li>"
        for head in report["heads"]
    ]
    return "\n".join(
        ["<p>The pictures need JavaScript. In words, the heads do this:</p>", "<ul>", *items, "</ul>"]
    )


def _hash(content: str) -> str:
    """Hash of a script or style, as a Content-Security-Policy names what is allowed."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _as_json(figures: dict[str, Any]) -> str:
    """JSON in ASCII without `<`, so that nothing in it can end the element that holds it."""
    return json.dumps(_rounded(figures), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _rounded(value: Any) -> Any:
    """The same value with floats rounded to five digits, which is all that the page shows."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list | tuple) else value
