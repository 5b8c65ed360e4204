"""From loaded images to global batches of latent tokens, two batches ahead of the step."""

import collections
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Batch
from jaxgen.core.types import Params
from jaxgen.data.example import Size
from jaxgen.data.loader import Loader
from jaxgen.data.packing import Loaded
from jaxgen.sharding import partition
from jaxgen.systems.base import System
from jaxgen.training.state import AUTOENCODER

# Pixels that a device encodes at once: four images of 1024 x 1024.
PIXELS = 4 * 1024**2
IN_FLIGHT = 2  # batches under way besides the one that the step reads


@dataclasses.dataclass(frozen=True)
class StepInput:
  """What one step reads.

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


def make_encoder(config: ConfigDict, system: System, frozen: Params, loader: Loader,
                 rows: NamedSharding) -> 'Encoder':
  """The encoder of a run; every program that it will need is compiled where sizes are known.

  With ``config.data.cache`` the loader hands out latents only, and there is nothing to compile.
  """
  shape = latent_shape(config, system)
  if config.data.cache:
    return Encoder(system, {}, (), rows, shape)
  return Encoder(system, frozen, loader.image_sizes, rows, shape,
                 size_limit(config, loader.image_sizes))


def latent_shape(config: ConfigDict, system: System) -> tuple[int, int, int]:
  """(R, L, C) of a run's latents."""
  return config.train.rows, config.data.visual_tokens, system.layout.latent.channels


def size_limit(config: ConfigDict, sizes: Iterable[Size]) -> int:
  """How many sizes a run may encode, of which ``sizes`` are known."""
  own_sizes = config.data.clean_roles and config.data.references != 'bucket'
  return max(config.data.image_sizes if own_sizes else 0, len(set(sizes)))


class Encoder:
  """Makes a batch's latents with the frozen autoencoder; they never leave the devices.

  Every device encodes the images of the rows that it holds, a fixed number at a time for each
  size, and writes their tokens into its rows. Nothing is sent between devices, so that encoding
  may run beside a step. Devices that hold the same rows (tensor and context axes) do it each.
  """

  def __init__(self, system: System, frozen: Params, sizes: Iterable[Size], rows: NamedSharding,
               shape: tuple[int, int, int], most: int = 0):
    """Keeps a copy of the autoencoder on every local device, and compiles it for each size.

    Args:
      system: provides ``encode``.
      frozen: global frozen parameters; an autoencoder without parameters may be absent.
      sizes: (height, width) of the images that are known to come.
      rows: sharding of the rows of the global batch.
      shape: (R, L, C) of the global latents.
      most: sizes in all, where images keep their own and more are met on the way; 0 = no others.
    """
    self._shape, self._sharding = shape, rows
    self._mesh = _local_mesh(rows, shape)
    self._blocks = self._mesh.shape['rows']
    self._local_rows = shape[0] // _block_count(rows, shape) * self._blocks
    whole = NamedSharding(self._mesh, PartitionSpec())
    self._split = NamedSharding(self._mesh, PartitionSpec('rows'))
    host = multihost_utils.process_allgather(frozen.get(AUTOENCODER, {}), tiled=True)
    self._params = {AUTOENCODER: jax.device_put(host, whole)}
    sizes = tuple(sizes)
    self._system, self._most = system, max(most, len(sizes))
    self._zeros = jax.jit(lambda: jnp.zeros((self._local_rows, *shape[1:]), jnp.float32),
                          out_shardings=self._split)
    self._programs: dict[Size, tuple[int, Any]] = {}
    for size in sizes:
      self._add(size)

  def __call__(self, loaded: Loaded) -> jax.Array:
    """Latents f32[R, L, C] of a batch, global; returns before the devices are done.

    Raises:
      UserError: an image of a size that was not announced.
    """
    known = loaded.batch.visual.latents
    # Zeros are made on the devices; an empty array would come out of a program unsplit.
    blank = known.size and not known.any()
    latents = self._zeros() if blank else jax.device_put(known, self._split)
    latents = self._write(latents, loaded.images, lambda slot: f'sample {_owner(loaded, slot)}')
    shards = {shard.device: shard.data for shard in latents.addressable_shards}
    devices = self._sharding.addressable_devices
    return jax.make_array_from_single_device_arrays(
        self._shape, self._sharding, [shards[device] for device in devices])

  def program(self, size: Size) -> tuple[int, jax.stages.Compiled]:
    """Images of a size that a device encodes in a call, and the program that does it."""
    return self._programs[size]

  def room(self, size: Size) -> int:
    """Images of a size that the rows of this process hold."""
    return self._local_rows * (self._shape[1] // self._tokens(size))

  def encode(self, images: np.ndarray) -> np.ndarray:
    """Latent tokens f32[n, h w, C] of images uint8[n, H, W, 3] on the host, by the very program
    that encodes batches; n is at most ``room``. The images are spread over all devices."""
    size, length = images.shape[1:3], self._shape[1]
    tokens = self._tokens(size)
    each = self._local_rows // self._blocks
    # Row by row of every block, so that the first images go to different devices.
    order = np.arange(self._local_rows).reshape(self._blocks, each).T.ravel()
    places = np.arange(length // tokens) * tokens
    slots = (places[:, None] + order * length).ravel()[:len(images)].astype(np.int32)
    latents = self._write(self._zeros(), {size: (images, slots)}, lambda _: 'image')
    flat = np.asarray(latents).reshape(-1, self._shape[2])
    return flat[slots[:, None] + np.arange(tokens)]

  def _tokens(self, size: Size) -> int:
    return size[0] * size[1] // self._system.layout.latent.factor**2

  def _write(self, latents: jax.Array, images: Mapping[Size, tuple[np.ndarray, np.ndarray]],
             name: Callable[[int], str]) -> jax.Array:
    """Encodes images into their slots of the local rows; ``name`` tells whose a slot is."""
    for size, (pixels, slots) in images.items():
      if size not in self._programs:
        if len(self._programs) >= self._most:
          raise user_error(name(slots[0]), size, 'no program was compiled '
                           f'for images of this size; known are {len(self._programs)}: '
                           f'{", ".join(map(str, self._programs))}; use buckets, or raise '
                           'config.data.image_sizes')
        self._add(size)
      count, program = self.program(size)
      for part, places in self._calls(count, pixels, slots):
        latents = program(self._params, latents, part, places)
    return latents

  def _calls(self, count: int, images: np.ndarray, slots: np.ndarray
             ) -> Iterator[tuple[jax.Array, jax.Array]]:
    """The images block by block of rows, ``count`` for each device and call."""
    block_tokens = self._local_rows // self._blocks * self._shape[1]
    owner = slots // block_tokens
    mine = [np.flatnonzero(owner == block) for block in range(self._blocks)]
    for start in range(0, max(map(len, mine)), count):
      pixels = np.zeros((self._blocks, count, *images.shape[1:]), np.uint8)
      places = np.full((self._blocks, count), block_tokens, np.int32)  # outside: not written
      for block, indices in enumerate(mine):
        chosen = indices[start:start + count]
        pixels[block, :len(chosen)] = images[chosen]
        places[block, :len(chosen)] = slots[chosen] - block * block_tokens
      yield jax.device_put((pixels, places), self._split)

  def _add(self, size: Size) -> None:
    """Compiles the program that encodes uint8[1, n, H, W, 3] on each device into its
    f32[rows, L, C]."""
    system = self._system
    count = images_at_once(size, self._local_rows // self._blocks, self._shape[1], self._most,
                           system.layout.latent.factor)

    def write(params, latents, pixels, places):
      tokens = system.encode(params, pixels[0].astype(jnp.float32) / 127.5 - 1)  # [n, h w, C]
      flat = latents.reshape(-1, latents.shape[-1])
      index = places[0][:, None] + jnp.arange(tokens.shape[1])
      index = jnp.where(places[0][:, None] < len(flat), index, len(flat))
      return flat.at[index].set(tokens, mode='drop').reshape(latents.shape)

    rows = PartitionSpec('rows')
    mapped = jax.shard_map(write, mesh=self._mesh, in_specs=(PartitionSpec(), rows, rows, rows),
                           out_specs=rows, check_vma=False)
    split = self._split
    self._programs[size] = count, jax.jit(mapped, donate_argnums=1).lower(
        self._params,
        jax.ShapeDtypeStruct((self._local_rows, *self._shape[1:]), jnp.float32, sharding=split),
        jax.ShapeDtypeStruct((self._blocks, count, *size, 3), jnp.uint8, sharding=split),
        jax.ShapeDtypeStruct((self._blocks, count), jnp.int32, sharding=split)).compile()


def global_batch(loaded: Loaded, encoder: Encoder, sharding: NamedSharding, rows: int) -> Batch:
  """The batch of all processes with its latents, global arrays [R, ...] of R ``rows``."""
  latents, visual = encoder(loaded), loaded.batch.visual
  host = loaded.batch.replace(visual=visual.replace(latents=None))
  batch = partition.to_global(host, sharding, rows)
  return batch.replace(visual=batch.visual.replace(latents=latents))


def images_at_once(size: Size, rows: int, tokens: int, sizes: int, factor: int) -> int:
  """Images of one size that a device encodes in a call: what fits its budget, and no more than
  its share of a batch, since what a call lacks is padding.

  Args:
    size: (height, width) in pixels.
    rows: of a device.
    tokens: L.
    sizes: how many sizes there are.
    factor: pixels along a latent token.
  """
  area = size[0] * size[1]
  most = max(tokens // (area // factor**2), 1) * rows
  return max(1, min(PIXELS // area, math.ceil(most / sizes)))


class Feed:
  """Iterator of ``StepInput``; a thread of its own makes the next batches while the step runs."""

  def __init__(self, loader: Loader, encoder: Encoder, sharding: NamedSharding, rows: int):
    """Starts on the first batches at once.

    Args:
      loader: of the rows of this process.
      encoder: of the latents.
      sharding: of the global batch.
      rows: R, rows of the global batch.
    """
    self._loader, self._encoder = loader, encoder
    self._sharding, self._rows = sharding, rows
    self._thread = ThreadPoolExecutor(1, 'feed')
    self._made = collections.deque(self._thread.submit(self._make) for _ in range(IN_FLIGHT))

  def __iter__(self) -> Iterator[StepInput]:
    return self

  def __next__(self) -> StepInput:
    began = time.perf_counter()
    made = self._made.popleft().result()
    self._made.append(self._thread.submit(self._make))
    return dataclasses.replace(made, asked=began, wait=time.perf_counter() - began)

  def peek(self) -> StepInput:
    """What the next step will read."""
    return self._made[0].result()

  def close(self) -> None:
    """Waits for the batch in the making, then closes the loader."""
    self._thread.shutdown(cancel_futures=True)
    self._loader.close()

  def _make(self) -> StepInput:
    loaded = next(self._loader)
    cursors = self._loader.state()
    batch = global_batch(loaded, self._encoder, self._sharding, self._rows)
    return StepInput(batch, loaded.ids, cursors, asked=0.0, wait=0.0)


def _local_mesh(rows: NamedSharding, shape: tuple[int, ...]) -> Mesh:
  """The devices of this process by the block of rows that they hold: (rows, replicas)."""
  holders: dict[int, list] = {}
  for device, (index, *_) in rows.addressable_devices_indices_map(shape).items():
    holders.setdefault(index.start or 0, []).append(device)
  return Mesh(np.asarray([holders[start] for start in sorted(holders)]), ('rows', 'replicas'))


def _block_count(rows: NamedSharding, shape: tuple[int, ...]) -> int:
  """Blocks that the global rows are split into."""
  return shape[0] // rows.shard_shape(shape)[0]


def _owner(loaded: Loaded, slot: int) -> str:
  """The id of the sample whose image begins at a slot."""
  segments = np.asarray(loaded.batch.visual.segments)
  row, token = divmod(int(slot), segments.shape[1])
  return loaded.ids[row][segments[row, token] - 1]
