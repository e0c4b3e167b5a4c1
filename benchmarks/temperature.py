"""The effect of the temperature on a trained model's text: `python -m benchmarks.temperature`.

Entropy is the mean entropy of the distributions that the tokens were drawn from. Words are runs of letters,
and a word is known if the training split has it.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

import nanogpt
from nanogpt.language_model import LanguageModel
from nanogpt.sampling import SamplingPolicy, sampling_uniforms
from nanogpt.text.corpus import load_corpus

TEMPERATURES = (0.5, 0.8, 1.2)
SHOWN = 120  # characters of the first text


@dataclass(frozen=True)
class Temperature:
    """Sample at three temperatures and measure the texts."""

    out_dir: Path = Path("out/shakespeare")
    """Folder of the run."""
    checkpoint: str = "latest"
    """latest, best or a step."""
    backend: str = "auto"
    """auto, jax or torch."""
    samples: int = 64
    """Texts at each temperature, each as long as the model's window."""
    seed: int = 1337
    """Seed of the sampling."""


def words(text: str) -> list[str]:
    """Runs of letters of a text, without the first and the last, which may be cut."""
    return [word.lower() for word in re.findall(r"[A-Za-z']+", text)][1:-1]


def entropy(logits_BTV: np.ndarray, temperature: float) -> float:
    """Mean entropy in bits of the next-token distributions at a temperature."""
    scaled_BTV = logits_BTV.astype(np.float64) / temperature
    scaled_BTV -= scaled_BTV.max(-1, keepdims=True)
    probabilities_BTV = np.exp(scaled_BTV)
    probabilities_BTV /= probabilities_BTV.sum(-1, keepdims=True)
    log_BTV = np.log2(probabilities_BTV, out=np.zeros_like(probabilities_BTV), where=probabilities_BTV > 0)
    return float(-(probabilities_BTV * log_BTV).sum(-1).mean())


def sample(model: LanguageModel, temperature: float, wanted: Temperature) -> np.ndarray:
    """Texts as tokens `[B, T]`, each as long as the window; each starts with a line break."""
    prompt_B1 = np.repeat(model.tokenizer.encode("\n")[None], wanted.samples, axis=0)
    uniforms_BN = sampling_uniforms(wanted.seed, range(wanted.samples), model.config.block_size - 1)
    blocks = model.backend.generate(prompt_B1, uniforms_BN, SamplingPolicy(temperature))
    return np.concatenate([prompt_B1, *blocks], axis=1)


def share_known(texts: list[str], known: set[str]) -> float:
    """Share of all words of the texts that is known."""
    written = [word for text in texts for word in words(text)]
    return sum(word in known for word in written) / max(1, len(written))


def main() -> None:
    wanted = tyro.cli(Temperature, use_underscores=True)
    model = nanogpt.load(wanted.out_dir, wanted.backend, checkpoint=wanted.checkpoint)
    text = load_corpus(model.metadata.config.run.data).text
    boundary = int(0.9 * len(text))
    known = set(words(text[:boundary]))
    print("| temperature | entropy, bits a character | words that the training split has | begins |")
    print("|---|---|---|---|")
    for temperature in TEMPERATURES:
        tokens_BT = sample(model, temperature, wanted)
        texts = [model.tokenizer.decode(tokens_T) for tokens_T in tokens_BT]
        shown = texts[0][1 : SHOWN + 1].replace("\n", " / ")
        # The last logits predict a token that was not drawn.
        bits = entropy(model.logits(tokens_BT)[:, :-1], temperature)
        print(f"| {temperature} | {bits:.2f} | {share_known(texts, known):.1%} | `` {shown} `` |")
    print(f"| the validation split | | {share_known([text[boundary:]], known):.1%} | |")


if __name__ == "__main__":
    main()
