"""Guidance: one velocity as a weighted sum of those of rewritten requests, v = sum_k w_k v_k.

Classifier-free guidance ``u + s (c - u)`` is the sum with weights s and 1 - s, so that scale 1 is
the plain conditional model. Papers that write ``c + g (c - u)`` mean the same with s = 1 + g.
"""

from collections.abc import Callable

import flax.struct
import jax.numpy as jnp

from jaxgen.core.types import Array
from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning

Velocity = Callable[[Array, Array], Array]


@flax.struct.dataclass
class Branches:
  """The K rewritten versions of R rows of requests, row by row: row r's are r K ... r K + K - 1.

  The tokens that are solved for are the same in every branch; M of them in the fullest row.

  Attributes:
    batch: [R K, ...]; clean latents stand in ``visual.latents``.
    token_of: i32[R, K, M], where each solved token stands in its branch; any for absent ones.
    target_of: i32[R, K, L], which solved token stands at each target of a branch; any elsewhere.
    weights: f32[R, K, M].
    scales: f32[R K, G], text guidance of the request of each segment, which distilled denoisers
      are told.
  """

  batch: Batch
  token_of: Array
  target_of: Array
  weights: Array
  scales: Array


def guided_velocity(denoise: Callable[[Array, Array, Conditioning], Array], branches: Branches,
                    conditioning: Conditioning) -> Velocity:
  """Closes a denoiser over its branches.

  Args:
    denoise: ``(x_t f[R K, L, C], t f32[R K, G], conditioning) -> v f32[R K, L, C]``.
    branches: of the requests.
    conditioning: of the R K rows.

  Returns:
    ``(x f[R, M, C], t f32 scalar) -> v f32[R, M, C]``.
  """
  visual, groups = branches.batch.visual, branches.batch.meta.sample_ids.shape[1]
  rows, count, tokens = branches.token_of.shape

  def velocity(x, t):
    noisy = jnp.take_along_axis(  # [R, K, L, C]
        x[:, None], branches.target_of[..., None], axis=2)
    noisy = noisy.reshape(visual.latents.shape)
    x_t = jnp.where(visual.is_target[..., None], noisy, visual.latents)
    v = denoise(x_t, jnp.full((rows * count, groups), t), conditioning)
    v = jnp.take_along_axis(  # [R, K, M, C]
        v.reshape(rows, count, *v.shape[1:]), branches.token_of[..., None], axis=2)
    return jnp.einsum('RKM,RKMC->RMC', branches.weights, v, precision='highest')

  return velocity
