"""An open format: a checkpoint as a GPT-2 folder of Hugging Face's transformers, and such a folder as a run.

    python -m nanogpt.huggingface export --out_dir out/quick --folder quick-gpt2
    python -m nanogpt.huggingface import --folder gpt2 --out_dir out/gpt2

The folder is `config.json`, `model.safetensors` and, if the model has a tokenizer, `tokenizer.json` and
`tokenizer_config.json`. The weights are ours (weights.py) by other names, and GPT2LMHeadModel computes the
same from them. What GPT-2 does not have is carried like this:

- A head of its own is `lm_head.weight`, our kernel transposed, and `tie_word_embeddings` is false.
- Absent biases are written as zeros, and `"nanogpt": {"bias": false}` in `config.json` has an import leave
  them out again, if they still are zeros.
- A character tokenizer is a BPE model of single characters that merges none.

An import takes weights of any floating type as float32, and `resid_pdrop` for its dropout.
"""

from nanogpt.huggingface.exporting import export_run
from nanogpt.huggingface.importing import import_folder

__all__ = ["export_run", "import_folder"]
