"""The device mesh."""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from ml_collections import ConfigDict

from jaxgen.core import environment
from jaxgen.core.errors import user_error

AXES = ('data', 'fsdp', 'context', 'tensor')


def use_compilation_cache() -> None:
  """Turns on JAX's persistent compilation cache, in ``JAX_COMPILATION_CACHE_DIR`` or the user's
  cache folder, so that a resumed run compiles nothing; hosts may share the folder."""
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', environment.compilation_cache(os.environ))


def make_mesh(
    sizes: ConfigDict, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """Arranges the devices along the four axes of the project.

  Neighbours along ``tensor`` have the fastest links, then those along ``context``, ``fsdp`` and
  ``data``. The slow network between slices or nodes is crossed by the leftmost axes.

  Args:
    sizes: ``config.mesh``; one axis may be -1 and takes the remaining devices.
    devices: the devices to arrange; all devices of the run by default.

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = _resolve(sizes, len(devices))
  if devices[0].platform == 'tpu':
    return jax.sharding.Mesh(_tpu_grid(shape, devices), AXES)
  return jax.sharding.Mesh(np.asarray(sorted(devices, key=_place)).reshape(shape), AXES)


def _resolve(sizes: ConfigDict, count: int) -> tuple[int, ...]:
  shape = [sizes[axis] for axis in AXES]
  fixed = int(np.prod([size for size in shape if size != -1]))
  if -1 in shape and count % fixed == 0:
    shape[shape.index(-1)] = count // fixed
  if int(np.prod(shape)) != count:
    asked = {axis: sizes[axis] for axis in AXES}
    raise user_error('config.mesh', asked, f'the sizes must multiply to the {count} devices '
                     'of this run; set one of them to -1 to take what is left')
  return tuple(shape)


def _place(device: jax.Device) -> tuple[int, int, int]:
  """Sort key that keeps the GPUs of a node adjacent, however the launcher numbers processes."""
  return _slice(device), device.process_index, device.id


def _slice(device: jax.Device) -> int:
  """Index of the TPU slice, or of the node whose GPUs share NVLink; 0 if there is none."""
  return getattr(device, 'slice_index', 0)


def _tpu_grid(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
  """Lays the mesh along the torus of a slice; only the data axis spans slices.

  A mesh axis of 8 on a 4 x 4 x 4 torus takes one full dimension and half of another.
  """
  slices = len(set(map(_slice, devices)))
  if slices == 1:
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  if shape[0] % slices:
    raise user_error('config.mesh.data', shape[0],
                     f'must be a multiple of the {slices} slices of this run')
  inner = (shape[0] // slices, *shape[1:])
  return mesh_utils.create_hybrid_device_mesh(
      inner, (slices, 1, 1, 1), devices, allow_split_physical_axes=True)
