"""Guidance: one velocity as a weighted sum of those of rewritten requests, v = sum_k w_k v_k.

Classifier-free guidance ``u + s (c - u)`` is the sum with weights s and 1 - s, so that scale 1 is
the plain conditional model. Papers that write ``c + g (c - u)`` mean the same with s = 1 + g.
What guidance does to the length of a velocity may be taken back, see ``renormalized``.
"""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from jaxgen.core.types import Array
from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning

Velocity = Callable[[Array, Array], Array]


@flax.struct.dataclass
class Branches:
  """The K rewritten versions of R rows of requests, row by row: row r's are r K ... r K + K - 1.

  The tokens that are solved for are the same in every branch; M of them in the fullest row. The
  first branch is the request as it stands.

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
                    conditioning: Conditioning, images: Array | None = None,
                    renormalize: str = 'none') -> Velocity:
  """Closes a denoiser over its branches.

  Args:
    denoise: ``(x_t f[R K, L, C], t f32[R K, G], conditioning) -> v f32[R K, L, C]``.
    branches: of the requests.
    conditioning: of the R K rows.
    images, renormalize: as ``renormalized`` takes them.

  Returns:
    ``(x f[R, M, C], t f32 scalar or f32[R, G]) -> v f32[R, M, C]``.
  """
  visual, groups = branches.batch.visual, branches.batch.meta.sample_ids.shape[1]
  rows, count, tokens = branches.token_of.shape

  def velocity(x, t):
    noisy = jnp.take_along_axis(  # [R, K, L, C]
        x[:, None], branches.target_of[..., None], axis=2)
    noisy = noisy.reshape(visual.latents.shape)
    x_t = jnp.where(visual.is_target[..., None], noisy, visual.latents)
    times = jnp.repeat(jnp.broadcast_to(t, (rows, groups)), count, axis=0)  # [R K, G]
    v = denoise(x_t, times, conditioning)
    v = jnp.take_along_axis(  # [R, K, M, C]
        v.reshape(rows, count, *v.shape[1:]), branches.token_of[..., None], axis=2)
    guided = jnp.einsum('RKM,RKMC->RMC', branches.weights, v, precision='highest')
    return renormalized(guided, v[:, 0], images, renormalize) if count > 1 else guided

  return velocity


def renormalized(guided: Array, told: Array, images: Array | None, kind: str) -> Array:
  """Velocities that are no longer than guidance found them.

  Args:
    guided: f[R, M, C], the sum of all branches.
    told: f[R, M, C], the first branch alone.
    images: i32[R, M], number of the image of each token within its row; read by ``image``.
    kind: ``token`` gives every token the length that it is told (Qwen-Image); ``image`` shrinks an
      image that has become longer as a whole (Z-Image's cfg_normalization); ``none`` changes
      nothing.
  """
  if kind == 'none':
    return guided
  squares = [jnp.sum(jnp.square(v), axis=-1) for v in (told, guided)]  # [R, M]
  if kind == 'image':
    total = jax.vmap(lambda square, image: jax.ops.segment_sum(
        square, image, num_segments=image.shape[0] + 1)[image])
    squares = [total(square, images) for square in squares]
  scale = jnp.sqrt(squares[0] / jnp.maximum(squares[1], jnp.finfo(jnp.float32).tiny))
  return guided * (jnp.minimum(scale, 1) if kind == 'image' else scale)[..., None]
