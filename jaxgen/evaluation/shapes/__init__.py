"""Exact scores of the drawn world: images are read back and compared with what was asked for."""
