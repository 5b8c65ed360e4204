"""Feature vectors by their directions alone; needs no jax, for workers that only compare them."""

import numpy as np


def unit(vectors: np.ndarray) -> np.ndarray:
  """f32[..., E] of length 1, so that products are cosines; vectors of zeros stay."""
  vectors = np.asarray(vectors, np.float32)
  return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
