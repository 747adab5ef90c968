"""Compile quickly: most of this suite's time would go into optimizing programs that run once."""

import os

# Read when jax is imported, so before any test module; the subprocesses of tests inherit it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
