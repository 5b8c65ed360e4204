"""Vectors of images and texts from a tower, batch by batch on all devices of this process."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.data.decode import decode
from jaxgen.data.sample import FileImage
from jaxgen.features.towers import DEVICES
from jaxgen.features.towers import Tower
from jaxgen.models.encoders.image_tower import Patches

BATCH = 64  # images of all devices together


def embed_images(tower: Tower, images: Iterable[bytes | np.ndarray | FileImage], *,
                 batch: int = BATCH) -> np.ndarray:
  """Embeds images, of any sizes.

  They are decoded and resized by threads while the devices work on the batch before. No more than
  two batches are in memory, so ``images`` may be a generator over a set of any size.

  Args:
    tower: of ``open_tower``.
    images: encoded, files, or uint8[H, W, 3].
    batch: images at once.

  Returns:
    f32[n, E], as the tower gives them; see ``unit``. f32[0, 0] where there are none.

  Raises:
    DecodeError: an image that cannot be read.
    UserError: an image processor that gives images of several sizes.
  """
  with futures.ThreadPoolExecutor() as threads:
    batches = (_stacked(tower, list(threads.map(lambda image: tower.pixels(decode(image)), chunk)))
               for chunk in chunks(images, batch))
    return _embedded(tower, 'image', batches, batch)


def embed_texts(tower: Tower, texts: Sequence[str], *, batch: int = BATCH) -> np.ndarray:
  """Embeds texts; longer ones than the tower reads are cut.

  Args:
    tower: of ``open_tower``, which reads texts.
    texts: any.
    batch: texts at once.

  Returns:
    f32[n, E], in the space of the tower's images.

  Raises:
    UserError: as ``Tower.tokens``.
  """
  return _embedded(tower, 'text', map(tower.tokens, chunks(texts, batch)), batch)


def chunks(values: Iterable, size: int) -> Iterator[list]:
  """Lists of ``size`` values, the last one perhaps shorter."""
  chunk = []
  for value in values:
    chunk.append(value)
    if len(chunk) == size:
      yield chunk
      chunk = []
  if chunk:
    yield chunk


def _embedded(tower: Tower, method: str, batches: Iterable[np.ndarray | Patches], batch: int
              ) -> np.ndarray:
  found, waiting = [], None
  for rows in batches:
    vectors = _apply(tower.module, tower.mesh, method, tower.params, _placed(tower, rows, batch))
    # The batch before is fetched now, so that the next one is made while the devices work.
    found += _fetched(waiting)
    waiting = _count(rows), vectors
  found += _fetched(waiting)
  return np.concatenate(found) if found else np.zeros((0, 0), np.float32)


def _fetched(waiting: tuple[int, jax.Array] | None) -> list[np.ndarray]:
  """The vectors of a batch without those of the rows that filled it up."""
  return [np.asarray(waiting[1], np.float32)[:waiting[0]]] if waiting else []


def _count(rows: np.ndarray | Patches) -> int:
  return len(jax.tree.leaves(rows)[0])


def _placed(tower: Tower, rows: np.ndarray | Patches, batch: int) -> jax.Array | Patches:
  """Rows on the devices, the last one repeated up to a power of two: few sizes, few programs."""
  devices, count = tower.mesh.size, _count(rows)
  size = min(1 << (count - 1).bit_length(), batch)
  size = -(-max(size, count) // devices) * devices
  filled = jax.tree.map(lambda leaf: np.concatenate(
      [leaf, np.repeat(leaf[-1:], size - count, axis=0)]), rows)
  return jax.device_put(filled, NamedSharding(tower.mesh, PartitionSpec(DEVICES)))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _apply(module: nn.Module, mesh: jax.sharding.Mesh, method: str, params: Params,
           rows: jax.Array | Patches) -> jax.Array:
  """f[n, E]; every device embeds its own rows."""
  whole, split = PartitionSpec(), PartitionSpec(DEVICES)
  # In fp32 throughout where parameters are: TPUs and GPUs would multiply with fewer bits.
  with jax.default_matmul_precision('highest'):
    return jax.shard_map(
        lambda params, rows: module.apply({'params': params}, rows, method=method),
        mesh=mesh, in_specs=(whole, split), out_specs=split)(params, rows)


def _stacked(tower: Tower, images: list[np.ndarray | Patches]) -> np.ndarray | Patches:
  shapes = {jax.tree.leaves(image)[0].shape for image in images}
  if len(shapes) > 1:
    raise user_error(f'{tower.path}: preprocessor_config.json', None, 'gives images of several '
                     f'sizes, as {sorted(shapes)[:2]}; set do_center_crop and a crop_size')
  return jax.tree.map(lambda *leaves: np.stack(leaves), *images)
