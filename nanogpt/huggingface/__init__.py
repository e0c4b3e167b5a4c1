"""Export a checkpoint as a GPT-2 folder of Hugging Face's transformers, and import such a folder as a run.

    nanogpt export --out_dir out/quick --folder quick-gpt2
    nanogpt import --folder gpt2 --out_dir out/openai

The folder holds `config.json`, `generation_config.json`, `model.safetensors` and, if the model has a
tokenizer, `tokenizer.json` and `tokenizer_config.json`. The weights are those of weights.py under GPT-2's
names, and GPT2LMHeadModel computes the same logits from them. Features that GPT-2 lacks are written so:

- An untied head is `lm_head.weight`, which is our kernel transposed, and `tie_word_embeddings` is false.
- Absent biases are written as zeros. `"nanogpt": {"bias": false}` in `config.json` makes an import leave them
  out again, if they are still zero.
- A character tokenizer is a BPE model whose tokens are single characters, without merges.

Special tokens go both ways. An import converts weights of any floating type to float32 and takes its dropout
from `resid_pdrop`.
"""

from nanogpt.huggingface.exporting import export_run
from nanogpt.huggingface.importing import import_folder, model_of_folder, read_folder

__all__ = ["export_run", "import_folder", "model_of_folder", "read_folder"]
