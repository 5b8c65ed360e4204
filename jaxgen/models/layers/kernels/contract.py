"""What every attention kernel takes and gives, and which query sees which key."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax

Arrays = tuple[jax.Array, ...]


class Visibility(NamedTuple):
  """Which query sees which key; everything does where all four are None.

  Attributes:
    q_segments: i32[B, L] or None; a query sees keys of its own number, none where it is 0.
    kv_segments: i32[B, S] or None, together with ``q_segments``.
    q_positions: i32[B, L] or None; a query sees keys whose position is not after its own.
    kv_positions: i32[B, S] or None, together with ``q_positions``.
  """

  q_segments: jax.Array | None = None
  kv_segments: jax.Array | None = None
  q_positions: jax.Array | None = None
  kv_positions: jax.Array | None = None

  def mask(self) -> jax.Array | None:
    """bool[B, L, S], True where the query sees the key; None where everything does."""
    mask = None
    if self.q_segments is not None:
      same = self.q_segments[:, :, None] == self.kv_segments[:, None, :]
      mask = same & (self.q_segments[:, :, None] != 0)
    if self.q_positions is not None:
      causal = self.kv_positions[:, None, :] <= self.q_positions[:, :, None]
      mask = causal if mask is None else mask & causal
    return mask

  def sees(self) -> jax.Array | None:
    """bool[B, L], True where the query sees any key; None where everything does."""
    mask = self.mask()
    return None if mask is None else mask.any(axis=-1)


@dataclasses.dataclass(frozen=True)
class Kernel:
  """One way to compute attention, heads first, without the scaling of the queries.

  Attributes:
    fits: (q, k) -> bool, whether shapes and dtype suit; arrays or their shapes.
    forward: (q f[B, N, L, H], k f[B, K, S, H], v f[B, K, S, H], Visibility) -> out f[B, N, L, H],
      zeros where a query sees nothing, and the logsumexp f32[B, N, L] of its scores.
    backward: (q, k, v, Visibility, out, logsumexp, gradient f[B, N, L, H]) -> gradients with
      respect to q, k and v, in their dtypes; the gradient of a query that sees nothing is dropped.
  """

  fits: Callable[[jax.Array, jax.Array], bool]
  forward: Callable[[jax.Array, jax.Array, jax.Array, Visibility], Arrays]
  backward: Callable[..., Arrays]
