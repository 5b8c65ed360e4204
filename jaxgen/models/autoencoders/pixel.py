"""Space to depth as an autoencoder without parameters: exact, for small runs and tests."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.autoencoders.patchify import patchify
from jaxgen.models.autoencoders.patchify import unpatchify


@dataclasses.dataclass(frozen=True)
class PixelConfig:
  """Size of the autoencoder.

  Attributes:
    factor: image pixels along one side of a latent pixel.
  """

  factor: int = 4

  def __post_init__(self):
    if self.factor < 1:
      raise user_error('config.model.autoencoder.factor', self.factor, 'must be at least 1')

  @property
  def channels(self) -> int:
    """Channels of a latent pixel."""
    return 3 * self.factor**2


class PixelAutoencoder(nn.Module):
  """Latents are the pixels themselves, ``factor x factor`` of them in one latent pixel."""

  config: PixelConfig
  dtype: jnp.dtype = jnp.float32

  def __call__(self, images: jax.Array) -> jax.Array:
    """Encodes and decodes; f32[n, H, W, 3] to the same."""
    return self.decode(self.encode(images))

  @nn.nowrap
  def example(self) -> tuple[jax.Array]:
    """The smallest arguments of ``__call__``: an image of one latent pixel."""
    return (jnp.zeros((1, self.config.factor, self.config.factor, 3)),)

  def encode(self, images: jax.Array) -> jax.Array:
    """Maps f32[n, H, W, 3] in [-1, 1] to latents f32[n, H / factor, W / factor, channels]."""
    factor = self.config.factor
    n, height, width, _ = images.shape
    return patchify(images, factor).reshape(n, height // factor, width // factor, -1)

  def decode(self, latents: jax.Array) -> jax.Array:
    """The exact inverse of ``encode``."""
    n, h, w, channels = latents.shape
    return unpatchify(latents.reshape(n, h * w, channels), (h, w), self.config.factor)
