"""Models of PyTorch libraries as modules and parameters, and back: the two public functions."""

import collections
import contextlib
import dataclasses
import functools
import pathlib
import re
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from jax.sharding import NamedSharding

from jaxgen.conversion import engine
from jaxgen.conversion import families
from jaxgen.conversion import streaming
from jaxgen.conversion.external import External
from jaxgen.conversion.external import open_external
from jaxgen.conversion.folders import in_file_order
from jaxgen.conversion.folders import save_folder
from jaxgen.conversion.transforms import whole
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.mismatch import mismatch
from jaxgen.core.types import Params
from jaxgen.checkpoints.weights import Stored
from jaxgen.models import registry
from jaxgen.sharding.partition import parameter_shardings


def load_pretrained(path: str, *, dtype: Any = None, mesh: Mesh | None = None, group: str = ''
                    ) -> tuple[nn.Module, Params]:
  """Reads a model of diffusers, transformers or an original release.

  The family is that of config.json, the naming of the tensors is recognised by the names. With a
  mesh every process reads only the bytes of its own shards. A line on stderr says what was read,
  how fast, and the most memory that the process has held.

  Args:
    path: a folder, or a file of weights with config.json beside it; ``gs://``, ``s3://``,
      ``hf://``; ``owner/name[/place][@revision]`` on the Hugging Face hub.
    dtype: of the parameters and the computation; that of the checkpoint unless given.
    mesh: where the parameters are spread by their logical axes; the default device unless given.
    group: as for ``open_external``; ``tower`` reads both towers of a CLIP.

  Returns:
    ``(module, params)``: ``module.apply({'params': params}, ...)``.

  Raises:
    UserError: no such model, a class that is not known, damaged or refused files, or tensors
      that do not fit their config.
  """
  model = open_external(path, group)
  if mesh is None:
    params = jax.tree.map(jax.device_put, read_params(model, dtype))
  else:
    params = _read_onto(model, mesh, dtype)
  compute = dtype or max(jax.tree.leaves(params), key=lambda leaf: leaf.size).dtype
  return registry.build(model.section, jnp.dtype(compute)), params


def save_pretrained(module: nn.Module, params: Params, path: str, *, layout: str = '') -> None:
  """Writes a model as a folder that ``from_pretrained`` of its class reads.

  Parameters that are spread over several processes are gathered tensor by tensor: all of them
  must call this, and process 0 writes.

  Args:
    module: one that ``load_pretrained`` or ``registry.build`` made.
    params: its parameters, in the dtype that is written.
    path: of the folder; must not exist, or be empty.
    layout: ``original`` writes the tensors under the names of the release; '' is the class's own.

  Raises:
    UserError: a module without such a class, parameters of another model, a layout that the
      family lacks, or a folder that holds something; nothing is left half-written.
  """
  family, config = families.exportable(module, layout)
  rules = family.layout(layout).rules
  found, wanted = ({path: tuple(leaf.shape) for path, leaf in trees.flatten(tree).items()}
                   for tree in (params, registry.param_shapes(module)))
  if text := mismatch(found, wanted):
    raise user_error('params', None, f'do not fit the module; {text}; merge adapters first')
  write = functools.partial(save_folder, path, config, stem=family.stem)
  tensors = engine.unwritten(rules, params, _gathered)
  if any(_is_elsewhere(leaf) for leaf in jax.tree.leaves(params)):
    _write_together(path, write, tensors)
  else:
    write(tensors)


def read_params(model: External, dtype: Any = None) -> Params:
  """All parameters of a model as numpy arrays; ``dtype`` as in ``load_pretrained``."""
  params, broken = {}, set()
  shapes, groups = trees.flatten(model.shapes), streaming.by_parameter(model.fit())
  with _reported(model):
    for path, links in groups.items():
      shape = tuple(shapes[path].shape)
      (params[path],), bad = streaming.read_boxes(
          links, model.tensors, [whole(shape)], shape,
          _dtype(links, model, dtype))
      broken |= bad
  streaming.warn_of(broken, model.path)
  return trees.unflatten(params)


@dataclasses.dataclass(frozen=True)
class Unread(Stored):
  """A parameter of a model of another library.

  Attributes:
    model: it belongs to.
    links: where its values lie.
    shape: of the parameter.
    dtype: that of the files.
  """

  model: External
  links: list[engine.Link]
  shape: tuple[int, ...]
  dtype: np.dtype

  def onto(self, sharding: NamedSharding, dtype: np.dtype) -> jax.Array:
    shards, broken = streaming.read_sharded(
        self.links, self.model.tensors, sharding, self.shape, np.dtype(dtype),
        sharding.addressable_devices)
    streaming.warn_of(broken, self.model.path)
    return jax.make_array_from_single_device_arrays(self.shape, sharding, list(shards.values()))

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    (array,), broken = streaming.read_boxes(
        self.links, self.model.tensors, [whole(self.shape)], self.shape,
        np.dtype(dtype or self.dtype))
    streaming.warn_of(broken, self.model.path)
    return array


def read_external(path: str) -> Params:
  """The parameters of a model, none of them read yet: what training starts from.

  Args:
    path: as in ``load_pretrained``.

  Returns:
    Tree of ``Stored``.

  Raises:
    UserError: as ``load_pretrained``.
  """
  model = open_external(path)
  shapes = trees.flatten(model.shapes)
  return trees.unflatten({
      path: Unread(model, links, tuple(shapes[path].shape), _dtype(links, model, None))
      for path, links in streaming.by_parameter(model.fit()).items()})


def read_shards(model: External, mesh: Mesh, devices: Iterable[jax.Device], dtype: Any = None
                ) -> tuple[dict[str, Any], dict[str, dict[jax.Device, jax.Array]]]:
  """What some devices of a mesh hold of a model.

  Returns:
    ``({path: sharding}, {path: {device: shard}})``.
  """
  devices = list(devices)
  axes = registry.param_axes(registry.build(model.section, jnp.float32))
  shardings = trees.flatten(parameter_shardings(axes, model.shapes, mesh))
  shapes, groups = trees.flatten(model.shapes), streaming.by_parameter(model.fit())
  shards, broken = {}, set()
  for path, links in groups.items():
    shards[path], bad = streaming.read_sharded(
        links, model.tensors, shardings[path], tuple(shapes[path].shape),
        _dtype(links, model, dtype), devices)
    broken |= bad
  streaming.warn_of(broken, model.path)
  return shardings, shards


def peak_memory() -> int:
  """The most bytes of memory that this process has held so far."""
  status = pathlib.Path('/proc/self/status')
  if status.exists():  # what getrusage says begins with the peak of the process that started this
    return 1024 * int(re.search(r'VmHWM:\s*(\d+) kB', status.read_text())[1])
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _read_onto(model: External, mesh: Mesh, dtype: Any) -> Params:
  devices = [device for device in mesh.devices.flat
             if device.process_index == jax.process_index()]
  with _reported(model):
    shardings, shards = read_shards(model, mesh, devices, dtype)
  shapes = trees.flatten(model.shapes)
  return trees.unflatten({
      path: jax.make_array_from_single_device_arrays(
          tuple(shapes[path].shape), shardings[path], list(shards[path].values()))
      for path in shards})


def _write_together(path: str, write: Callable[[Mapping[str, engine.Unwritten]], None],
                    tensors: Mapping[str, engine.Unwritten]) -> None:
  """Process 0 writes; the others gather with it, tensor by tensor in the order of the files."""
  left, written = collections.deque(in_file_order(tensors)), False

  def make(name: str) -> np.ndarray:
    assert left.popleft() == name, 'tensors must be written in the order of the files'
    return tensors[name].make()

  try:
    if jax.process_index() == 0:
      write({name: dataclasses.replace(tensor, make=functools.partial(make, name))
             for name, tensor in tensors.items()})
    written = True
  finally:
    for name in left:  # in process 0 what failed to be written: the others wait for it
      tensors[name].make()
    all_written = multihost_utils.process_allgather(np.asarray(written)).all()
  if not all_written:
    raise user_error(path, None, 'could not be written; process 0 says why')


def _gathered(array: Any) -> np.ndarray:
  if _is_elsewhere(array):
    return multihost_utils.process_allgather(array, tiled=True)
  return np.asarray(array)


def _is_elsewhere(array: Any) -> bool:
  """Whether some of an array lies in other processes alone."""
  return isinstance(array, jax.Array) and not array.is_fully_addressable


def _dtype(links: list[engine.Link], model: External, dtype: Any) -> np.dtype:
  return streaming.dtype_of(links, model.tensors) if dtype is None else np.dtype(dtype)


@contextlib.contextmanager
def _reported(model: External) -> Iterator[None]:
  """Says on stderr what was read inside, how fast, and the peak of memory."""
  start = time.monotonic()
  yield
  seconds, size = time.monotonic() - start, model.bytes_read
  count = families.size_of({name: leaf.shape for name, leaf in
                            trees.flatten(model.shapes).items()})
  print(f'{model.path}: {model.family.marker[1]}, {count / 1e6:.1f} M parameters, '
        f'{size / 1e6:.1f} MB read in {seconds:.1f} s ({size / 1e6 / seconds:.0f} MB/s), '
        f'peak host memory {peak_memory() / 1e6:.0f} MB', file=sys.stderr, flush=True)
