"""Flax Linen modules: layers, autoencoders, encoders, bridges and denoisers. They know no data."""
