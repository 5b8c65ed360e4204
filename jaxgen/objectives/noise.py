"""Random numbers keyed by global row and image, independent of how a batch is divided.

A row's key is the step's key folded with the row's global number. An image's key is its row's key
folded with the image number. A sample therefore gets the same noise, timestep and mask on any
number of devices, hosts and accumulation steps.
"""

import jax
import jax.numpy as jnp


def fold(keys: jax.Array, numbers: jax.Array) -> jax.Array:
  """Folds one number into each key.

  Args:
    keys: typed keys, broadcastable to the shape of ``numbers``.
    numbers: i32[...].

  Returns:
    key[...].
  """
  keys = jnp.broadcast_to(keys, numbers.shape)
  return jax.vmap(jax.random.fold_in)(keys.ravel(), numbers.ravel()).reshape(numbers.shape)


def image_noise(image_keys: jax.Array, images: jax.Array, channels: int) -> jax.Array:
  """Standard normal noise for every token, keyed by its image and its index within the image.

  Args:
    image_keys: key[B, L], the key of the image that each token belongs to.
    images: i32[B, L], number of that image within the row; tokens of an image are contiguous.
    channels: C.

  Returns:
    f32[B, L, C].
  """
  keys = fold(image_keys, places(images)).ravel()  # key[B L]
  noise = jax.vmap(lambda key: jax.random.normal(key, (channels,), jnp.float32))(keys)
  return noise.reshape(*images.shape, channels)


def places(images: jax.Array) -> jax.Array:
  """Index of each token within its image, i32[B, L], from image numbers i32[B, L]."""
  index = jnp.broadcast_to(jnp.arange(images.shape[1], dtype=jnp.int32), images.shape)
  begins = jnp.pad(images[:, 1:] != images[:, :-1], ((0, 0), (1, 0)), constant_values=True)
  return index - jax.lax.cummax(jnp.where(begins, index, 0), axis=1)
