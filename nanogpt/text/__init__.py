"""Text and tokens: corpora, tokenizers, windows."""
