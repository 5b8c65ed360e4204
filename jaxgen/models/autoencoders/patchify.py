"""Latent maps to tokens and back, in the channel order of FLUX."""

import jax


def patchify(latents: jax.Array, patch: int) -> jax.Array:
  """Groups ``patch x patch`` latent pixels into tokens.

  Args:
    latents: f[n, h, w, c]; h and w are multiples of ``patch``.
    patch: side of a patch.

  Returns:
    f[n, (h / patch) * (w / patch), c * patch * patch]; rows first, and within a token the
    channel varies slowest, then the row, then the column.
  """
  n, h, w, c = latents.shape
  assert h % patch == 0 and w % patch == 0, (latents.shape, patch)
  x = latents.reshape(n, h // patch, patch, w // patch, patch, c)
  return x.transpose(0, 1, 3, 5, 2, 4).reshape(n, -1, c * patch * patch)


def unpatchify(tokens: jax.Array, grid: tuple[int, int], patch: int) -> jax.Array:
  """The inverse of ``patchify``.

  Args:
    tokens: f[n, rows * columns, c * patch * patch].
    grid: (rows, columns) of tokens.
    patch: side of a patch.

  Returns:
    f[n, rows * patch, columns * patch, c].
  """
  rows, columns = grid
  n, length, channels = tokens.shape
  assert length == rows * columns and channels % patch**2 == 0, (tokens.shape, grid, patch)
  x = tokens.reshape(n, rows, columns, channels // patch**2, patch, patch)
  return x.transpose(0, 1, 4, 2, 5, 3).reshape(n, rows * patch, columns * patch, -1)
