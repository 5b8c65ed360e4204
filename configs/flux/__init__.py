"""Configs of FLUX.1 as published, and of fine-tuning it."""
