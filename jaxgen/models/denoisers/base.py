"""What denoisers share: their one call, its smallest example inputs, latent pixels of a token."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual

LATENT_PATCH = 2  # latent pixels along one side of a token; Sana alone has single ones
PATCH_AREA = LATENT_PATCH**2

Example = tuple[jax.Array, jax.Array, Visual, Conditioning]


class Denoiser(nn.Module):
  """Velocity of noisy latent tokens, given clean ones, time and conditioning states.

  Attributes:
    config: sizes; the fields that all denoisers have are ``in_channels`` and ``cond_dim``.
    dtype: of the computation; time path, norms, softmax and RoPE stay fp32.
  """

  config: Any
  dtype: jnp.dtype = jnp.float32

  def __call__(self, x_t: jax.Array, t: jax.Array, visual: Visual, conditioning: Conditioning
               ) -> jax.Array:
    """Predicts the velocity; a token attends to tokens and states of its own segment only.

    Args:
      x_t: f[B, L, C], noisy tokens at targets and clean latents at conditions. ``visual.latents``
        is never read.
      t: f32[B, G], time of each segment in [0, 1], 1 = noise.
      visual: positions, segments and roles of the tokens. Which time modulates the clean ones is
        a field of the config where the model has a choice (``clean_time``); otherwise it is the
        time of their segment.
      conditioning: states f[B, S, cond_dim]. ``pooled`` and ``guidance`` are given if and only if
        the config asks for them. Learned pad tokens, as in ``conditioning.pads`` and at visual
        tokens of no image, are Z-Image's only; the other denoisers do not look at these marks.

    Returns:
      f32[B, L, out]; has no meaning at padding and at clean tokens.
    """
    raise NotImplementedError

  @property
  def pooled_dim(self) -> int:
    """Channels of the pooled prompt vector; 0 = takes none."""
    return 0

  @property
  def takes_guidance(self) -> bool:
    """Whether the guidance scale is an input, as in guidance-distilled models."""
    return False

  def check_vectors(self, conditioning: Conditioning) -> None:
    """Asserts that the pooled vector and the guidance scale are there exactly where wanted."""
    has_pooled, has_guidance = (x is not None for x in (conditioning.pooled, conditioning.guidance))
    assert has_pooled == bool(self.pooled_dim), 'pooled goes with pooled_dim'
    assert has_guidance == self.takes_guidance, 'guidance goes with guidance_embed'

  def example(self) -> Example:
    """The smallest inputs of a call: ``module.init(rng, *module.example())``.

    Returns:
      One row of one segment with four target tokens and two states, all zero.
    """
    latents = jnp.zeros((1, 4, self.config.in_channels))
    states = jnp.zeros((1, 2, self.config.cond_dim))
    ones = jnp.ones(latents.shape[:2], jnp.int32)
    visual = Visual(latents, jnp.zeros((1, 4, 3), jnp.int32), ones, ones, ones.astype(bool))
    conditioning = Conditioning(
        states, jnp.zeros((1, 2, 3), jnp.int32), jnp.ones((1, 2), jnp.int32),
        pooled=jnp.zeros((1, 1, self.pooled_dim)) if self.pooled_dim else None,
        guidance=jnp.zeros((1, 1)) if self.takes_guidance else None)
    return latents, jnp.zeros((1, 1)), visual, conditioning


def check_patches(in_channels: int) -> None:
  """Raises a ``UserError`` where a token's channels are not those of ``PATCH_AREA`` pixels."""
  if in_channels % PATCH_AREA:
    raise user_error('config.model.denoiser.in_channels', in_channels,
                     f'must be a multiple of the {PATCH_AREA} latent pixels of a token')
