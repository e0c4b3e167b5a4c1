"""The GPT in PyTorch, line beside line with nanogpt_jax."""
