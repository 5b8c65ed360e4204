"""Bridges: from a language model to a denoiser."""
