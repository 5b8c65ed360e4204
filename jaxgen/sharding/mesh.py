"""The device mesh, and the start of a run that spans several processes."""

import os
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error

AXES = ('data', 'fsdp', 'context', 'tensor')
COORDINATOR = 'JAXGEN_COORDINATOR'
NUM_PROCESSES = 'JAXGEN_NUM_PROCESSES'
PROCESS_ID = 'JAXGEN_PROCESS_ID'


def start_processes(coordinator: str = '', num_processes: int = 0, process_id: int = -1) -> None:
  """Joins the processes of one run; does nothing where a single process is all there is.

  Must run before the first use of a device. Arguments left at their defaults are read from
  ``JAXGEN_COORDINATOR``, ``JAXGEN_NUM_PROCESSES`` and ``JAXGEN_PROCESS_ID``.

  Args:
    coordinator: ``host:port`` of process 0, or ``auto`` where the cluster says it itself
      (Cloud TPU, Slurm, Open MPI, Kubernetes).
    num_processes: how many processes take part.
    process_id: which of them this is, 0 to ``num_processes - 1``.

  Raises:
    UserError: a coordinator without the two numbers, or numbers that do not fit together.
  """
  coordinator = coordinator or os.environ.get(COORDINATOR, '')
  if not coordinator:
    return
  if coordinator == 'auto':
    jax.distributed.initialize()
    return
  num_processes = num_processes or _number(NUM_PROCESSES)
  process_id = process_id if process_id >= 0 else _number(PROCESS_ID)
  if not 0 <= process_id < num_processes:
    raise user_error(PROCESS_ID, process_id, f'must be 0 to {num_processes - 1}, as '
                     f'{NUM_PROCESSES} is {num_processes}')
  jax.distributed.initialize(coordinator, num_processes, process_id)


def use_compilation_cache() -> None:
  """Keeps compiled programs from run to run, in ``JAX_COMPILATION_CACHE_DIR`` or in the user's
  cache folder, so that a resumed run starts at once."""
  if not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir', os.path.expanduser('~/.cache/jaxgen'))


def make_mesh(
    sizes: ConfigDict, devices: Sequence[jax.Device] | None = None) -> jax.sharding.Mesh:
  """Arranges the devices along the four axes of the project.

  Args:
    sizes: ``config.mesh``; one axis may be -1 and takes the devices that are left.
    devices: all devices of the run unless given.

  Raises:
    UserError: sizes whose product is not the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  shape = _resolve(sizes, len(devices))
  if devices[0].platform == 'tpu':
    return jax.sharding.Mesh(_tpu_grid(shape, devices), AXES)
  return jax.sharding.Mesh(np.asarray(devices).reshape(shape), AXES)


def _resolve(sizes: ConfigDict, count: int) -> tuple[int, ...]:
  shape = [sizes[axis] for axis in AXES]
  fixed = int(np.prod([size for size in shape if size != -1]))
  if -1 in shape and count % fixed == 0:
    shape[shape.index(-1)] = count // fixed
  if int(np.prod(shape)) != count:
    raise user_error('config.mesh', dict(sizes), f'the sizes must multiply to the {count} devices '
                     'of this run; set one of them to -1 to take what is left')
  return tuple(shape)


def _tpu_grid(shape: tuple[int, ...], devices: Sequence[jax.Device]) -> np.ndarray:
  """Follows the torus of a slice; only the data axis crosses from slice to slice.

  A mesh axis of 8 on a 4 x 4 x 4 torus takes one of its dimensions and a half of another.
  """
  slices = len({getattr(device, 'slice_index', 0) for device in devices})
  if slices == 1:
    return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
  if shape[0] % slices:
    raise user_error('config.mesh.data', shape[0],
                     f'must be a multiple of the {slices} slices of this run')
  inner = (shape[0] // slices, *shape[1:])
  return mesh_utils.create_hybrid_device_mesh(
      inner, (slices, 1, 1, 1), devices, allow_split_physical_axes=True)


def _number(variable: str) -> int:
  text = os.environ.get(variable, '')
  if not text.isdigit():
    raise user_error(variable, text, f'{COORDINATOR} is set, so this must be a number')
  return int(text)
