"""Position schemes: pure functions from image sizes to the integer (t, h, w) of every token."""

import functools

import numpy as np


@functools.lru_cache(maxsize=256)
def image_positions(height: int, width: int) -> np.ndarray:
  """FLUX's scheme: (0, h, w) for the tokens of an image in reading order.

  The denoiser's text states all sit at (0, 0, 0), as in FLUX.

  Args:
    height, width: size of the latent token grid.

  Returns:
    i32[height * width, 3], read-only.
  """
  grid = grid_positions(height, width)
  positions = np.concatenate([np.zeros_like(grid[:, :1]), grid], axis=1)
  positions.setflags(write=False)
  return positions


@functools.lru_cache(maxsize=256)
def grid_positions(height: int, width: int) -> np.ndarray:
  """(h, w) of every cell of a grid in reading order; i32[height * width, 2], read-only."""
  rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing='ij')
  positions = np.stack([rows.ravel(), columns.ravel()], axis=1).astype(np.int32)
  positions.setflags(write=False)
  return positions


def text_positions(length: int) -> np.ndarray:
  """0, 1, 2, ... on all three axes: where the language model sees a plain sequence.

  Returns:
    i32[length, 3].
  """
  return np.repeat(np.arange(length, dtype=np.int32)[:, None], 3, axis=1)
