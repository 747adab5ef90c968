"""Functional pruning for JAX: scores, masks, penalties and removal, composed with optax."""

from importlib.metadata import version as _version

__version__ = _version("jaxprune")
