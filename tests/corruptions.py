"""Damage of every kind to the folder of a run, drawn by a seed."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

# JSON texts that no value of a run is like.
STRANGE = [
    *("null", "true", "false", "0", "-1", "1", "0.5", "-0", "1e308", "1e999", "-1e999", "NaN", "-Infinity"),
    *(str(2**63), "9" * 400, "9" * 5_000, '""', '"x"', '"20"', r'"\ud800"', f'"{"x" * 100_000}"'),
    *("[]", "{}", "[0]", '{"a": 1}', '{"a": 1, "a": 2}', "[" * 100_000 + "]" * 100_000, '{"a":' * 50_000),
]


class Corruption(NamedTuple):
    """A part of a run's folder, where `*` stands for names that differ from save to save, and its damage."""

    number: int
    part: str
    kind: str


def parts(run: Path) -> dict[str, list[Path]]:
    """All files and folders of a run."""
    found: dict[str, list[Path]] = {}
    for path in sorted(run.rglob("*")):
        name = re.sub(r"/[0-9a-f]{32}$", "/*", str(path.relative_to(run)))
        found.setdefault(name, []).append(path)
    return found


def drawn(run: Path, count: int, seed: int, only: str = "") -> list[Corruption]:
    """Draw corruptions of the parts whose names begin with `only`: each kind in turn, parts evenly."""
    draw, found = Random(seed), parts(run)
    suited = {
        kind: [part for part, paths in found.items() if part.startswith(only) and any(map(suits, paths))]
        for kind, (suits, _) in KINDS.items()
    }
    met: Counter[Any] = Counter()
    corruptions = []
    for number, kind in zip(range(count), cycle(filter(suited.get, KINDS)), strict=False):
        *_, part = min((met[kind, part], met[part], draw.random(), part) for part in suited[kind])
        met.update([part, (kind, part)])
        corruptions.append(Corruption(number, part, kind))
    return corruptions


def corrupt(run: Path, corruption: Corruption, seed: int) -> None:
    suits, damage = KINDS[corruption.kind]
    draw = Random(f"{seed} {corruption.number}")
    damage(draw.choice([path for path in parts(run)[corruption.part] if suits(path)]), draw)


# Damage to bytes.


def flip(content: bytes, draw: Random) -> bytes:
    at, bit = draw.randrange(len(content)), draw.randrange(8)
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def flip_many(content: bytes, draw: Random) -> bytes:
    for _ in range(draw.randint(2, 16)):
        content = flip(content, draw)
    return content


def change_digit(content: bytes, draw: Random) -> bytes:
    """Put another digit into the place of one, so that the file is as well-formed as before."""
    at = draw.choice([match.start() for match in re.finditer(rb"\d", content)] or [0])
    return content[:at] + b"%d" % draw.randrange(10) + content[at + 1 :]


def overwrite(content: bytes, draw: Random, filling: Callable[[int], bytes] = bytes) -> bytes:
    start, size = draw.randrange(len(content)), draw.choice([1, 8, 64, 512, 4_096, len(content)])
    return content[:start] + filling(len(content[start : start + size])) + content[start + size :]


def overwrite_at_random(content: bytes, draw: Random) -> bytes:
    return overwrite(content, draw, draw.randbytes)


def cut_off_end(content: bytes, draw: Random) -> bytes:
    return content[: draw.randrange(len(content))]


def cut_off_start(content: bytes, draw: Random) -> bytes:
    return content[draw.randint(1, len(content)) :]


def cut_out(content: bytes, draw: Random) -> bytes:
    start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[stop:]


def repeat(content: bytes, draw: Random) -> bytes:
    start, stop = sorted(draw.randrange(len(content) + 1) for _ in range(2))
    return content[:stop] + content[start:]


def append(content: bytes, draw: Random) -> bytes:
    garbage = [bytes(1), bytes(4_096), draw.randbytes(1), draw.randbytes(300), content]
    return content + draw.choice([*garbage, b"\n", b"{}", b"null\n", b"]", b'\n{"step": 5}\n'])


def empty(content: bytes, draw: Random) -> bytes:
    return b""


def remove_line(content: bytes, draw: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    lines.pop(draw.randrange(len(lines)))
    return b"".join(lines)


def repeat_line(content: bytes, draw: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    lines.insert(draw.randrange(len(lines) + 1), draw.choice(lines))
    return b"".join(lines)


def shuffle_lines(content: bytes, draw: Random) -> bytes:
    lines = content.splitlines(keepends=True)
    return b"".join(draw.sample(lines, len(lines)))


def strange_value(content: bytes, draw: Random) -> bytes:
    return _with_place(content, draw, lambda parent, key: parent.__setitem__(key, "PLACE"))


def other_value(content: bytes, draw: Random) -> bytes:
    """Put one value into the place of another of the same object or list."""
    return _with_place(
        content,
        draw,
        lambda parent, key: parent.__setitem__(key, draw.choice([value for _, value in _items(parent)])),
    )


def remove_value(content: bytes, draw: Random) -> bytes:
    return _with_place(content, draw, lambda parent, key: parent.__delitem__(key))


def _with_place(content: bytes, draw: Random, change: Callable[[Any, Any], None]) -> bytes:
    """Change one place in a JSON text, or in one of its lines, where each line is a JSON text of its own."""
    lines = content.splitlines() if _is_json(content.splitlines()[0]) else [content]
    number = draw.randrange(len(lines))
    value = json.loads(lines[number])
    change(*draw.choice(_places(value)))
    lines[number] = json.dumps(value).replace('"PLACE"', draw.choice(STRANGE)).encode()
    return b"\n".join([*lines, b""])


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every parent and key in a JSON value."""
    inner = [_places(child) for _, child in _items(value) if isinstance(child, dict | list)]
    return [*((value, key) for key, _ in _items(value)), *(place for places in inner for place in places)]


def _items(value: Any) -> list[tuple[Any, Any]]:
    return list(value.items() if isinstance(value, dict) else enumerate(value))


# Damage to a file or folder as a whole.


def remove(path: Path, draw: Random) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def empty_folder(path: Path, draw: Random) -> None:
    for inner in path.iterdir():
        remove(inner, draw)


def folder_instead(path: Path, draw: Random) -> None:
    remove(path, draw)
    path.mkdir()
    if draw.random() < 0.5:
        (path / "file").write_text("inside")


def file_instead(path: Path, draw: Random) -> None:
    remove(path, draw)
    path.write_bytes(draw.randbytes(draw.choice([0, 100])))


def dangling_link(path: Path, draw: Random) -> None:
    remove(path, draw)
    path.symlink_to("nowhere")


def link_to_itself(path: Path, draw: Random) -> None:
    remove(path, draw)
    path.symlink_to(path.name)


def swap(path: Path, draw: Random) -> None:
    """Swap a file with another file, or a folder with another folder."""
    other, aside = draw.choice(_others(path)), path.with_name("aside")
    path.rename(aside)
    other.rename(path)
    aside.rename(other)


def copy_of_other(path: Path, draw: Random) -> None:
    """Put a copy of another file or folder in its place: that of another checkpoint, where there is one."""
    others = _others(path)
    other = draw.choice([other for other in others if other.name == path.name] or others)
    remove(path, draw)
    (shutil.copytree if other.is_dir() else shutil.copy)(other, path)


def rename(path: Path, draw: Random) -> None:
    names = [str(draw.randrange(1, 100)), "030", "-20", "20.0", "x20", "²", "9" * 30, f"{path.name}~"]
    path.rename(path.with_name(draw.choice([name for name in names if not path.with_name(name).exists()])))


def _others(path: Path) -> list[Path]:
    """Everything in the run's folder that can swap its place with a file or a folder."""
    run = next(parent for parent in path.parents if (parent / "checkpoints").is_dir())
    found = [other for other in sorted(run.rglob("*")) if other.is_dir() == path.is_dir()]
    return [other for other in found if not (other.is_relative_to(path) or path.is_relative_to(other))]


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _has_lines(path: Path) -> bool:
    return _has_content(path) and len(path.read_bytes().splitlines()) > 1


def _has_json(path: Path) -> bool:
    return _has_content(path) and any(map(_is_json, (path.read_bytes(), path.read_bytes().splitlines()[0])))


def _is_json(content: bytes) -> bool:
    try:
        return isinstance(json.loads(content), dict)
    except ValueError:
        return False


def _has_others(path: Path) -> bool:
    return bool(_others(path))


def _rewritten(change: Callable[[bytes, Random], bytes]) -> Callable[[Path, Random], object]:
    return lambda path, draw: path.write_bytes(change(path.read_bytes(), draw))


BYTES = (
    *(flip, flip_many, change_digit, overwrite, overwrite_at_random, cut_off_end, cut_off_start, cut_out),
    *(repeat, append, empty),
)
LINES = (remove_line, repeat_line, shuffle_lines)
VALUES = (strange_value, other_value, remove_value)
# By name: what each kind suits, and what it does.
KINDS: dict[str, tuple[Callable[[Path], bool], Callable[[Path, Random], object]]] = {
    **{kind.__name__: (_has_content, _rewritten(kind)) for kind in BYTES},
    **{kind.__name__: (_has_lines, _rewritten(kind)) for kind in LINES},
    **{kind.__name__: (_has_json, _rewritten(kind)) for kind in VALUES},
    **{kind.__name__: (Path.exists, kind) for kind in (remove, dangling_link, link_to_itself, rename)},
    **{kind.__name__: (_has_others, kind) for kind in (swap, copy_of_other)},
    **{kind.__name__: (Path.is_file, kind) for kind in (folder_instead,)},
    **{kind.__name__: (Path.is_dir, kind) for kind in (file_instead, empty_folder)},
}
