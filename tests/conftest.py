"""Compile quickly: most of this suite's time would go into optimizing programs that run once."""

import gc
import importlib.metadata
import importlib.util
import os

# Read when jax is imported, so before any test module; the subprocesses of tests inherit it.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# One LLVM module a program, and the plainer of two ways to emit loops: half the time to compile.
# Later versions have only the other way, and XLA stops at a flag that it does not know.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_use_fusion_emitters=false",
    )

# Twins in torch, which the suite does without.
collect_ignore = [] if importlib.util.find_spec("torch") else ["networks/twins.py"]


def pytest_collection_finish():
    """Spare the garbage collector what is imported, and let it look twenty times less often."""
    gc.freeze()
    gc.set_threshold(20_000, 10, 20)
