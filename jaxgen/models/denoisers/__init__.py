"""Denoisers: packed noisy tokens and conditioning to velocity."""
