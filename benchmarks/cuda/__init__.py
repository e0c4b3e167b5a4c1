"""Every program of the JAX twin compiled for an NVIDIA card that is not there."""
