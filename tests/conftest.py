"""Compile quickly: most of this suite's time would go into optimizing programs that run once."""

import importlib.util
import os

# Read when jax is imported, so before any test module; the subprocesses of tests inherit it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# Twins in torch, which the suite does without.
collect_ignore = [] if importlib.util.find_spec("torch") else ["networks/twins.py"]
