"""nanoGPT, twice: the core that both backends share."""

from typing import TYPE_CHECKING, Any

from nanogpt.errors import InputError
from nanogpt.version import __version__

if TYPE_CHECKING:
    from nanogpt.language_model import LanguageModel, load
    from nanogpt.session import train

__all__ = ["InputError", "LanguageModel", "__version__", "load", "train"]


def __getattr__(name: str) -> Any:
    """Import numpy and the rest when they are asked for: before that, a command obeys Ctrl-C."""
    if name in ("LanguageModel", "load"):
        import nanogpt.language_model

        return getattr(nanogpt.language_model, name)
    if name == "train":
        from nanogpt.session import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
