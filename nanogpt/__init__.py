"""nanoGPT, twice: the core that both backends share."""

from nanogpt.errors import InputError
from nanogpt.language_model import LanguageModel, load
from nanogpt.version import __version__

__all__ = ["InputError", "LanguageModel", "__version__", "load"]
