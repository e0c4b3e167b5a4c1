"""A user could write this: it runs, and mypy --strict has nothing against it."""

import nanogpt

model = nanogpt.train("python", preset="quick", max_iters=20, eval_interval=20, quiet=True)
tokens = model.tokenizer.encode("ROMEO: ")
print(model.logits(tokens[None]).shape, model.generate("ROMEO: ", max_tokens=20, stop="\n"))
