"""Rotary position embedding computed from integer positions, which are data."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class RopeScaling:
  """How Llama 3.1 stretches its slow rotations to longer texts than it was first trained on.

  Attributes:
    factor: slow rotations are this many times slower; 1 = none of this.
    low: rotations with fewer turns than this over the original length are slow.
    high: rotations with more turns than this stay as they are; between, it goes smoothly.
    original: the original length in tokens.
  """

  factor: float = 1.0
  low: float = 1.0
  high: float = 4.0
  original: int = 8192

  def __call__(self, frequencies: np.ndarray) -> np.ndarray:
    """The scaled frequencies."""
    turns = self.original * frequencies / (2 * np.pi)
    share = np.clip((turns - self.low) / (self.high - self.low), 0, 1)
    return frequencies * (share + (1 - share) / self.factor)


def angles(positions: jax.Array, axes_dims: tuple[int, ...], theta: float | tuple[float, ...]
           ) -> tuple[jax.Array, jax.Array]:
  """Cosines and sines of the rotation of every pair of channels.

  Args:
    positions: i32[B, L, A], may be negative; A axes such as (t, h, w). Fractions are allowed.
    axes_dims: head channels given to each axis, all even; they sum to H.
    theta: base of the frequencies, one for all axes or one for each.

  Returns:
    cos, sin: f32[B, L, H / 2], the pairs of the first axis first.
  """
  assert positions.shape[-1] == len(axes_dims), (positions.shape, axes_dims)
  thetas = theta if isinstance(theta, tuple) else (theta,) * len(axes_dims)
  parts = [positions[..., axis, None].astype(jnp.float32) * frequencies(dim // 2, base)
           for axis, (dim, base) in enumerate(zip(axes_dims, thetas, strict=True))]
  angle = jnp.concatenate(parts, axis=-1)
  return jnp.cos(angle), jnp.sin(angle)


def sectioned_angles(positions: jax.Array, sections: tuple[int, ...], theta: float,
                     scaling: RopeScaling = RopeScaling()) -> tuple[jax.Array, jax.Array]:
  """As ``angles``, but the axes share one series of frequencies (the mRoPE of Qwen2-VL).

  Args:
    positions: i32[B, L, A].
    sections: pairs of channels given to each axis in turn; they sum to H / 2.
    theta: base of the frequencies.
    scaling: of the frequencies.

  Returns:
    cos, sin: f32[B, L, H / 2].
  """
  assert positions.shape[-1] == len(sections), (positions.shape, sections)
  half = sum(sections)
  axis = np.repeat(np.arange(len(sections)), sections)
  angle = positions[..., axis].astype(jnp.float32) * frequencies(half, theta, scaling)
  return jnp.cos(angle), jnp.sin(angle)


def frequencies(count: int, theta: float, scaling: RopeScaling = RopeScaling()) -> np.ndarray:
  """f32[count], rounded once from float64 as FLUX does; the same bits on every processor."""
  return scaling(1.0 / theta ** (np.arange(count, dtype=np.float64) / count)).astype(np.float32)


def apply_rope(x: jax.Array, cos: jax.Array, sin: jax.Array, *, interleaved: bool) -> jax.Array:
  """Rotates the channel pairs of every head.

  Args:
    x: f[B, L, N, H].
    cos: f32[B, L, H / 2]; ``sin`` alike.
    interleaved: pairs are channels (2i, 2i + 1), as in FLUX; otherwise (i, i + H / 2), as in
      Qwen2.

  Returns:
    f[B, L, N, H] in the dtype of ``x``; the rotation itself is fp32.
  """
  cos, sin = cos[:, :, None, :], sin[:, :, None, :]
  y = x.astype(jnp.float32)
  if interleaved:
    pairs = y.reshape(*x.shape[:-1], -1, 2)
    a, b = pairs[..., 0], pairs[..., 1]
    y = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(x.shape)
  else:
    a, b = jnp.split(y, 2, axis=-1)
    y = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return y.astype(x.dtype)
