"""The memory of the host as a second floor below that of the devices."""

from typing import Any

import jax
from jax.sharding import Mesh

from jaxgen.core.errors import user_error

HOST = 'pinned_host'  # what devices copy from and to by themselves while they compute


def on_host(tree: Any) -> Any:
  """A tree of ``ShapeDtypeStruct``, each in the memory of the hosts whose devices share it."""
  return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
          leaf.shape, leaf.dtype, sharding=leaf.sharding.with_memory_kind(HOST)), tree)


def on_device(tree: Any) -> Any:
  """Traced arrays, copied to the devices from wherever they are."""
  return jax.device_put(tree, jax.memory.Space.Device)


def check_host(field: str, value: Any, mesh: Mesh) -> None:
  """Raises a ``UserError`` for a field that asks for this where devices know no such memory."""
  device = mesh.devices.flat[0]
  kinds = [memory.kind for memory in device.addressable_memories()]
  if kinds and HOST not in kinds:  # GPUs that are only described name none
    raise user_error(field, value, f'needs the memory kind {HOST}; a {device.device_kind} has '
                     f'{", ".join(kinds)} only')
