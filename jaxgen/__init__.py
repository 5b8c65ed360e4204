"""jaxgen: train, run and ship unified multimodal image generators with JAX."""

__version__ = '0.1.0'
