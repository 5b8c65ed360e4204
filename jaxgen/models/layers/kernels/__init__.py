"""Kernels of attention, one per file behind one contract, and the choice among them."""
