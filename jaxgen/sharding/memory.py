"""Host memory as a second tier below device memory."""

from typing import Any

import jax
from jax.sharding import Mesh

from jaxgen.core.errors import user_error

HOST = 'pinned_host'  # devices copy to and from it by DMA while they compute


def on_host(tree: Any) -> Any:
  """The same tree of ``ShapeDtypeStruct``, sharded as before but placed in host memory."""
  return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=leaf.sharding.with_memory_kind(HOST)), tree)


def off_host(tree: Any) -> Any:
  """The same tree of ``ShapeDtypeStruct``, sharded as before but placed in device memory."""
  return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=of_devices(leaf)), tree)


def of_devices(leaf: Any) -> jax.sharding.Sharding:
  """The sharding of an array, or of its shape, in device memory."""
  return leaf.sharding.with_memory_kind('device')


def has_host(mesh: Mesh) -> bool:
  """Whether the devices of a mesh can copy from the memory of their host by themselves."""
  return HOST in [memory.kind for memory in mesh.devices.flat[0].addressable_memories()]


def on_device(tree: Any) -> Any:
  """Copies traced arrays to device memory from wherever they are."""
  return jax.device_put(tree, jax.memory.Space.Device)


def check_host(field: str, value: Any, mesh: Mesh) -> None:
  """Raises a ``UserError`` if ``field`` asks for host memory that the devices do not support."""
  device = mesh.devices.flat[0]
  kinds = [memory.kind for memory in device.addressable_memories()]
  if kinds and HOST not in kinds:  # described GPUs (jaxgen plan) list no memory kinds
    raise user_error(field, value, f'needs the memory kind {HOST}; a {device.device_kind} has '
                     f'{", ".join(kinds)} only')
