"""Shared by all tests: programs compiled by JAX are kept for one test session, apart from the user's."""

import os
import tempfile

_compiled = tempfile.TemporaryDirectory(prefix="nanogpt-tests-")
os.environ["JAX_COMPILATION_CACHE_DIR"] = _compiled.name
