"""Text and tokens: corpora, tokenizers and windows."""
