"""The GPT in Flax NNX, line beside line with nanogpt_torch."""
