"""The projects that ours is measured against, from clones of them: karpathy's nanoGPT and his lecture."""

import ast
import contextlib
import importlib.util
import io
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.contest import Step
from benchmarks.shape import Shape
from nanogpt.config import ModelConfig

Peer = Callable[..., tuple[Any, Any]]
"""Makes a peer's model and optimizer from a clone of it."""


def nanogpt(shape: Shape | ModelConfig, path: Path, device: str = "cpu") -> tuple[Any, Any]:
    """karpathy/nanoGPT's model and optimizer, as its train.py makes them."""
    model = shape.model if isinstance(shape, Shape) else shape
    spec = importlib.util.spec_from_file_location("nanogpt_model", path / "model.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanogpt_model"] = module
    spec.loader.exec_module(module)
    sizes = (model.block_size, model.vocab_size, model.n_layer, model.n_head, model.n_embd)
    config = module.GPTConfig(*sizes, model.dropout, bias=model.bias)
    with contextlib.redirect_stdout(io.StringIO()):
        gpt = module.GPT(config).to(device)
        return gpt, gpt.configure_optimizers(0.1, 1e-3, (0.9, 0.99), device)


def lecture(shape: Shape, path: Path) -> tuple[Any, Any]:
    """The model and optimizer of karpathy/ng-video-lecture's gpt.py."""
    import torch

    # gpt.py is a script that trains when it is imported, so its imports and classes alone are run.
    source = ast.parse((path / "gpt.py").read_text(encoding="utf-8"))
    wanted = (ast.Import, ast.ImportFrom, ast.ClassDef)
    source.body = [node for node in source.body if isinstance(node, wanted)]
    names: dict[str, Any] = asdict(shape) | {"vocab_size": 65, "device": "cpu"}
    exec(compile(source, "gpt.py", "exec"), names)
    model = names["GPTLanguageModel"]()
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3)


def training(shape: Shape, peer: Peer, path: Path, compiled: bool = False) -> Step:
    """A training step of a peer; gradients are clipped if its own script clips them."""
    import torch

    model, optimizer = peer(shape, path)
    forward = torch.compile(model) if compiled else model

    def step(number: int) -> None:
        tokens_BT1 = torch.from_numpy(shape.batch(number)).long()
        _, loss = forward(tokens_BT1[:, :-1].contiguous(), tokens_BT1[:, 1:].contiguous())
        loss.backward()
        if peer is nanogpt:
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def evaluation(shape: Shape, peer: Peer, path: Path) -> Step:
    """The loss of a batch."""
    import torch

    model = peer(shape, path)[0].eval()

    def step(number: int) -> None:
        tokens_BT1 = torch.from_numpy(shape.batch(number)).long()
        with torch.no_grad():
            model(tokens_BT1[:, :-1].contiguous(), tokens_BT1[:, 1:].contiguous())[1].item()

    return step


def generation(shape: Shape, peer: Peer, path: Path, prompt: int, count: int) -> Step:
    """`count` tokens after a prompt of `prompt` tokens, at batch 1."""
    import torch

    model = peer(shape, path)[0].eval()

    def step(number: int) -> None:
        with torch.no_grad():
            model.generate(torch.from_numpy(shape.prompt(prompt)).long(), count)

    return step
