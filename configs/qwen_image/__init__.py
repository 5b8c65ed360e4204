"""Qwen-Image and its Edit models as published, to fine-tune on one's own images."""
