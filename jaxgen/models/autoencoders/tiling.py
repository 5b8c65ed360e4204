"""Large images and videos through an autoencoder in overlapping tiles, blended at the seams.

The order of blending is that of diffusers' ``tiled_encode`` and ``tiled_decode``: row by row, a
tile with the finished tile above it, then with the finished tile on its left.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error

Run = Callable[[nn.Module, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Tiling:
  """How inputs that are larger than a tile are cut.

  Attributes:
    size: pixels along each side of a tile; 0 = images are never cut.
    stride: pixels from one tile to the next.
    frames: frames of a tile behind its first; 0 = videos are never cut in time.
    frame_stride: frames from one tile to the next.
  """

  size: int = 0
  stride: int = 0
  frames: int = 0
  frame_stride: int = 0

  def check(self, where: str, factor: int, temporal_factor: int = 1) -> None:
    """Refuses tiles that do not overlap or that latent pixels do not fill."""
    for size, stride, unit, name in ((self.size, self.stride, factor, 'stride'),
                                     (self.frames, self.frame_stride, temporal_factor,
                                      'frame_stride')):
      if size and not 0 < stride <= size:
        raise user_error(f'{where}.{name}', stride, f'must be from 1 to {size}, a tile\'s size')
      if size % unit or stride % unit:
        raise user_error(f'{where}.{name}', stride,
                         f'tiles of {size} and their stride must be multiples of {unit}')

  def shrunk(self, factor: int, temporal_factor: int = 1) -> 'Tiling':
    """The same tiles in latent pixels and latent frames."""
    return Tiling(self.size // factor, self.stride // factor,
                  self.frames // temporal_factor, self.frame_stride // temporal_factor)


def tiled(module: nn.Module, run: Run, x: jax.Array, cut: Tiling, paste: Tiling) -> jax.Array:
  """``run(module, x)``, tile by tile where ``x`` is larger than a tile.

  Args:
    module: a bound module, handed to ``run`` inside a scan.
    run: maps an image f[n, h, w, c] or a video f[n, t, h, w, c]; a video's first frame stands
      for itself, the others are taken ``cut.frames / paste.frames`` together.
    x: what ``run`` maps.
    cut: tiles of ``x``.
    paste: the same tiles in units of the result.
  """
  over_space = functools.partial(_tiled_space, run=run, cut=cut, paste=paste)
  if x.ndim < 5 or not cut.frames or x.shape[1] <= cut.frames:
    return over_space(module, x)
  # A tile that starts with the last frame would add nothing.
  starts = range(0, x.shape[1] - 1, cut.frame_stride)
  done: list[jax.Array] = []
  for tile in _each(module, over_space, [x[:, t:t + cut.frames + 1] for t in starts]):
    if done:
      tile = _blend(done[-1], tile[:, 1:], paste.frames - paste.frame_stride, axis=1)
    done.append(tile)
  kept = [tile[:, :paste.frame_stride + (index == 0)] for index, tile in enumerate(done)]
  return jnp.concatenate(kept, axis=1)


def _tiled_space(module: nn.Module, x: jax.Array, *, run: Run, cut: Tiling, paste: Tiling
                 ) -> jax.Array:
  height, width = x.shape[-3:-1]
  if not cut.size or max(height, width) <= cut.size:
    return run(module, x)
  tops, lefts = range(0, height, cut.stride), range(0, width, cut.stride)
  tiles = iter(_each(module, run, [x[..., top:top + cut.size, left:left + cut.size, :]
                                   for top in tops for left in lefts]))
  overlap = paste.size - paste.stride
  rows: list[list[jax.Array]] = []
  for _ in tops:
    row: list[jax.Array] = []
    for column in range(len(lefts)):
      tile = next(tiles)
      if rows:
        tile = _blend(rows[-1][column], tile, overlap, axis=x.ndim - 3)
      if row:
        tile = _blend(row[-1], tile, overlap, axis=x.ndim - 2)
      row.append(tile)
    rows.append(row)
  kept = [[tile[..., :paste.stride, :paste.stride, :] for tile in row] for row in rows]
  return jnp.concatenate([jnp.concatenate(row, axis=-2) for row in kept], axis=-3)


def _each(module: nn.Module, run: Run, tiles: Sequence[jax.Array]) -> list[jax.Array]:
  """Results of the tiles, computed one after another; tiles of one shape share a program."""
  by_shape: dict[tuple[int, ...], list[int]] = {}
  for index, tile in enumerate(tiles):
    by_shape.setdefault(tile.shape, []).append(index)
  in_turn = nn.scan(lambda module, carry, tile: (carry, run(module, tile)),
                    variable_broadcast='params', split_rngs={'params': False})
  results = {}
  for indices in by_shape.values():
    _, out = in_turn(module, (), jnp.stack([tiles[index] for index in indices]))
    results.update(zip(indices, out, strict=True))
  return [results[index] for index in range(len(tiles))]


def _blend(before: jax.Array, tile: jax.Array, overlap: int, axis: int) -> jax.Array:
  """``tile`` with its first entries faded in from the last of the tile before it."""
  overlap = min(before.shape[axis], tile.shape[axis], overlap)
  shape = [1] * tile.ndim
  shape[axis] = overlap
  weight = (jnp.arange(overlap) / max(overlap, 1)).reshape(shape).astype(tile.dtype)
  end = jax.lax.slice_in_dim(before, before.shape[axis] - overlap, before.shape[axis], axis=axis)
  start, rest = jnp.split(tile, [overlap], axis=axis)
  return jnp.concatenate([end * (1 - weight) + start * weight, rest], axis=axis)
