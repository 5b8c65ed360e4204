"""What autoencoders share: shift and scaling, tiles, and the draw from a Gaussian posterior."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.models.autoencoders.tiling import tiled


class Autoencoder(nn.Module):
  """Images or videos in [-1, 1], channels last, to latents and back.

  Latents are ``(z - config.shift) * config.scaling`` of the network's own. That is applied here,
  once on each way, and nowhere else in the project.

  A family gives ``setup``, ``encode_tile`` (pixels to what the network says) and ``decode_tile``
  (latents of the network to pixels). Its config has ``channels``, ``shift``, ``scaling``,
  ``tiling``, ``factor`` and ``temporal_factor``.

  Attributes:
    config: sizes.
    dtype: of the convolutions; norms are fp32.
  """

  config: Any
  dtype: jnp.dtype = jnp.float32

  def __call__(self, images: jax.Array) -> jax.Array:
    """Encodes and decodes."""
    return self.decode(self.encode(images))

  @nn.nowrap
  def example(self) -> tuple[jax.Array]:
    """The smallest arguments of ``__call__``: an image of 2 x 2 latent pixels."""
    side = 2 * self.config.factor
    return (jnp.zeros((1, side, side, 3)),)

  def encode(self, images: jax.Array) -> jax.Array:
    """What denoisers see: shifted and scaled latents, of a posterior the mean.

    Args:
      images: f32[n, H, W, 3]; of families for videos also f32[n, T, H, W, 3], T = 1 modulo
        ``config.temporal_factor``.

    Returns:
      f32[n, H / factor, W / factor, c], or f32[n, (T - 1) / temporal_factor + 1, ...].
    """
    return self._scaled(self._network(images))

  def decode(self, latents: jax.Array) -> jax.Array:
    """Images or videos of shifted and scaled latents; the inverse of ``encode``'s shapes."""
    config = self.config
    latents = latents.astype(jnp.float32) / jnp.asarray(config.scaling) + jnp.asarray(config.shift)
    return tiled(self, type(self).decode_tile, latents,
                 config.tiling.shrunk(config.factor, config.temporal_factor), config.tiling
                 ).astype(jnp.float32)

  def _network(self, images: jax.Array) -> jax.Array:
    """What the encoder says, f32."""
    config = self.config
    assert not any(side % config.factor for side in images.shape[-3:-1]), images.shape
    assert images.ndim < 5 or (images.shape[1] - 1) % config.temporal_factor == 0, images.shape
    return tiled(self, type(self).encode_tile, images, config.tiling,
                 config.tiling.shrunk(config.factor, config.temporal_factor)).astype(jnp.float32)

  def _scaled(self, latents: jax.Array) -> jax.Array:
    return (latents - jnp.asarray(self.config.shift)) * jnp.asarray(self.config.scaling)


class GaussianAutoencoder(Autoencoder):
  """An autoencoder whose encoder gives a mean and a log variance of each latent."""

  def moments(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and log variance of the posterior, neither shifted nor scaled; shapes of ``encode``."""
    mean, log_variance = jnp.split(self._network(images), 2, axis=-1)
    return mean, jnp.clip(log_variance, -30.0, 20.0)

  def encode(self, images: jax.Array) -> jax.Array:
    """The mean of the posterior, shifted and scaled."""
    return self._scaled(self.moments(images)[0])

  def sample(self, images: jax.Array, rng: jax.Array) -> jax.Array:
    """A draw from the posterior, shifted and scaled."""
    mean, log_variance = self.moments(images)
    noise = jax.random.normal(rng, mean.shape)
    return self._scaled(mean + jnp.exp(0.5 * log_variance) * noise)
