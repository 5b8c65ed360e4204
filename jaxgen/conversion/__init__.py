"""Weights from and to PyTorch: one name table per family, read in both directions."""
