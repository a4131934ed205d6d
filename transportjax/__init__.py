"""Differentiable transport of distributions in JAX."""

__version__ = "0.1.0"
