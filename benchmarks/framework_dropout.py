"""Each framework's own dropout in the place of the shared hash, to see what the hash costs."""

from typing import Any


def use_framework_dropout(name: str) -> None:
    """Replace our Dropout by jax.random.bernoulli or by torch's dropout, in the whole of this process.

    This patches the method that our Dropout class does its work in, and nothing puts it back. So only a
    process that measures this one thing and then exits may call it, before it makes a model. The models
    have no setting for it, because without the hash the twins no longer drop the same elements.
    """
    if name == "torch":
        from torch.nn import functional

        from nanogpt_torch import dropout

        def torch_dropout(self: Any, x: Any, keys_B2: Any = None, index: Any = None) -> Any:
            return functional.dropout(x, self.rate, training=keys_B2 is not None)

        dropout.Dropout.forward = torch_dropout  # type: ignore[method-assign]
    else:
        import jax

        from nanogpt_jax import dropout as jax_dropout

        def bernoulli_dropout(self: Any, x: Any, keys_B2: Any = None, index: Any = None) -> Any:
            if keys_B2 is None:
                return x
            keep = jax.random.bernoulli(jax.random.wrap_key_data(keys_B2[0]), 1 - self.rate, x.shape)
            return jax.numpy.where(keep, x / (1 - self.rate), 0)

        jax_dropout.Dropout.__call__ = bernoulli_dropout  # type: ignore[method-assign]
