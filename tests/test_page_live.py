"""The model that is put into a page: its rounded weights, and the choice of how they are rounded."""

from pathlib import Path

import numpy as np
import pytest

import nanogpt
from nanogpt.cli.huggingface import export_main
from nanogpt.page import live
from nanogpt.page.contents import validation_tokens
from nanogpt.page.live import in_page, pack, unpack
from nanogpt.randomness import normals
from tests.page import figures_of, visualize


@pytest.mark.parametrize(("dtype", "error"), [("float32", 0), ("float16", 2**-11), ("int8", 0.5 / 127)])
def test_rounded_weights_are_near(dtype: str, error: float) -> None:
    kernel = normals(1, "kernel", 0, 600).reshape(30, 20) * np.float32(3)
    kernel[:, 3] *= np.float32(1e-3)  # a small row of outputs keeps its own scale
    kernel[:, 4] = 0
    packed = pack({"head.kernel": kernel, "final_norm.scale": kernel[0]}, dtype)
    rebuilt_OI = unpack(packed["head.kernel"])
    largest_O1 = np.abs(kernel.T).max(axis=1, keepdims=True)
    assert (np.abs(rebuilt_OI - kernel.T) <= 1.001 * error * largest_O1).all()
    np.testing.assert_array_equal(unpack(packed["final_norm.scale"]), kernel[0])


@pytest.mark.parametrize(("limit", "dtype"), [(0.005, "int8"), (-1.0, "float32")])
def test_the_loss_on_the_validation_text_chooses(
    limit: float, dtype: str, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MAX_LOSS_INCREASE", limit)
    assert export_main(["page", f"--out_dir={finished_run}", "--backend=torch"]) == 0
    figures = figures_of("model.html")["live"]
    assert figures["dtype"] == dtype
    model = nanogpt.load(finished_run, backend="torch")
    validation_N = validation_tokens(model)
    losses = [model.loss(validation_N), in_page(model, figures["weights"]).loss(validation_N)]
    np.testing.assert_allclose(figures["losses"], losses, rtol=1e-4)
    assert figures["losses"][1] - figures["losses"][0] < 0.005


def test_a_model_too_large_for_the_page_has_the_page_without_it(
    finished_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(live, "MAX_PARAMETERS", 1000)
    assert visualize(finished_run) == 0
    assert "The page does not hold the model itself: it has " in capsys.readouterr().err
    assert figures_of("attention.html")["live"] is None
    assert export_main(["page", f"--out_dir={finished_run}", "--backend=torch"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: the page can't hold this model: it has ")
    assert not Path("model.html").exists()


def test_the_model_can_be_left_out(finished_run: Path) -> None:
    assert visualize(finished_run, "--no-live") == 0
    figures = figures_of("attention.html")
    assert figures["live"] is None
    assert len(figures["pieces"]) == 16
    assert 'id="worker"' not in Path("attention.html").read_text(encoding="utf-8")
