"""The attention heads: what each one attends to, and how much the loss rises without it."""
