"""From loaded images to global batches of latent tokens, one batch ahead of the step."""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxgen.core.errors import user_error
from jaxgen.core.types import Batch
from jaxgen.core.types import Params
from jaxgen.data.buckets import Size
from jaxgen.data.loader import Loader
from jaxgen.data.packing import Loaded
from jaxgen.sharding import partition
from jaxgen.training.state import AUTOENCODER

IMAGES_PER_DEVICE = 4  # encoded at once; fixed, so that each image size compiles once


@dataclasses.dataclass(frozen=True)
class Fed:
  """What one step is fed.

  Attributes:
    batch: global arrays [R, ...], rows over the mesh.
    ids: sample ids of the rows of this process.
    cursors: int64[R_local, K], the loader's state after this batch.
    asked: when the step asked for it, by ``time.perf_counter()``.
    wait: seconds that the step waited for it.
  """

  batch: Batch
  ids: tuple[tuple[str, ...], ...]
  cursors: np.ndarray
  asked: float
  wait: float


class Encoder:
  """Fills a batch's latents with the frozen autoencoder, on the devices of this process."""

  def __init__(self, system: System, frozen: Params, sizes: Iterable[Size]):
    """Keeps a copy of the autoencoder on every local device, and compiles it for each size.

    Args:
      system: provides ``encode``.
      frozen: global frozen parameters; an autoencoder without parameters may be absent.
      sizes: (height, width) of all images that may come.
    """
    mesh = Mesh(np.asarray(jax.local_devices()), ('images',))
    whole = NamedSharding(mesh, PartitionSpec())
    host = multihost_utils.process_allgather(frozen.get(AUTOENCODER, {}), tiled=True)
    self._params = {AUTOENCODER: jax.device_put(host, whole)}
    self._images = NamedSharding(mesh, PartitionSpec('images'))
    self._chunk = IMAGES_PER_DEVICE * mesh.size

    def encode(params, images):
      return system.encode(params, images.astype(jnp.float32) / 127.5 - 1).astype(jnp.float32)

    encode = jax.jit(encode, out_shardings=self._images)
    self._programs = {size: encode.lower(self._params, jax.ShapeDtypeStruct(
        (self._chunk, *size, 3), jnp.uint8, sharding=self._images)).compile() for size in sizes}

  def fill(self, loaded: Loaded) -> Batch:
    """The batch with ``visual.latents`` f32[B, L, C] of all its images, still numpy.

    Raises:
      UserError: an image of a size that was not announced.
    """
    latents = np.array(loaded.batch.visual.latents, np.float32)
    flat = latents.reshape(-1, latents.shape[-1])
    for size, (images, slots) in loaded.images.items():
      if size not in self._programs:
        raise user_error(f'sample {_owner(loaded, slots[0])}', size, 'no program was compiled for '
                         f'images of this size; known are {", ".join(map(str, self._programs))}')
      for start in range(0, len(images), self._chunk):
        chunk = slice(start, start + self._chunk)
        tokens = self._tokens(images[chunk])
        flat[slots[chunk, None] + np.arange(tokens.shape[1])] = tokens
    return loaded.batch.replace(visual=loaded.batch.visual.replace(latents=latents))

  def _tokens(self, images: np.ndarray) -> np.ndarray:
    """uint8[n, H, W, 3] to f32[n, h w, C] for n up to the chunk."""
    padded = np.zeros((self._chunk, *images.shape[1:]), np.uint8)
    padded[:len(images)] = images
    tokens = self._programs[images.shape[1:3]](
        self._params, jax.device_put(padded, self._images))
    return jax.device_get(tokens)[:len(images)]


class Feed:
  """Iterator of ``Fed``; a thread of its own makes the next batch while the step runs."""

  def __init__(self, loader: Loader, encoder: Encoder, sharding: NamedSharding, rows: int):
    """Starts on the first batch at once.

    Args:
      loader: of the rows of this process.
      encoder: of the latents.
      sharding: of the global batch.
      rows: R, rows of the global batch.
    """
    self._loader, self._encoder = loader, encoder
    self._sharding, self._rows = sharding, rows
    self._thread = ThreadPoolExecutor(1, 'feed')
    self._next = self._thread.submit(self._make)

  def __iter__(self) -> Iterator[Fed]:
    return self

  def __next__(self) -> Fed:
    began = time.perf_counter()
    made = self._next.result()
    self._next = self._thread.submit(self._make)
    return dataclasses.replace(made, asked=began, wait=time.perf_counter() - began)

  def peek(self) -> Fed:
    """What the next step will be fed."""
    return self._next.result()

  def close(self) -> None:
    """Waits for the batch in the making, then closes the loader."""
    self._thread.shutdown(cancel_futures=True)
    self._loader.close()

  def _make(self) -> Fed:
    loaded = next(self._loader)
    cursors = self._loader.state()
    batch = partition.to_global(self._encoder.fill(loaded), self._sharding, self._rows)
    return Fed(batch, loaded.ids, cursors, asked=0.0, wait=0.0)


def _owner(loaded: Loaded, slot: int) -> str:
  """The id of the sample whose image begins at a slot."""
  segments = np.asarray(loaded.batch.visual.segments)
  row, token = divmod(int(slot), segments.shape[1])
  return loaded.ids[row][segments[row, token] - 1]
