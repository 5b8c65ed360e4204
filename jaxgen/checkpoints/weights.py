"""Reads parameters from a workdir or a weights folder, and writes weights folders.

A workdir holds ``config.json``, ``checkpoints/<step>/{params,ema,...}`` (trainable parameters) and
``frozen/`` (frozen parameters). A weights folder holds ``config.json`` and ``weights/``. Both use
Orbax; values are read as numpy arrays, whatever devices wrote them.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxgen.checkpoints import checksums
from jaxgen.checkpoints.damage import reading
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.files import new_folder
from jaxgen.core.files import write_text
from jaxgen.core.formats import read_run
from jaxgen.core.mismatch import mismatch
from jaxgen.core.types import Params

_CHUNK = 1 << 20  # bytes per chunk, so reading a slice of a parameter reads little else
_FIX = 'copy the folder again, or use another checkpoint'


class Stored(abc.ABC):
  """A parameter in files that is read lazily, and only the slices that are needed.

  ``np.asarray`` reads all of it.

  Attributes:
    shape: the full shape, known without reading the values.
    dtype: dtype of the values in the files.
  """

  shape: tuple[int, ...]
  dtype: np.dtype

  @abc.abstractmethod
  def onto(self, sharding: jax.sharding.NamedSharding, dtype: np.dtype) -> jax.Array:
    """Loads the parameter onto the devices; each process reads only its own shards."""

  @abc.abstractmethod
  def __array__(self, dtype: np.dtype | None = None, copy: bool | None = None) -> np.ndarray:
    """Reads all values."""


@dataclasses.dataclass(frozen=True)
class InStore(Stored):
  """A parameter in an Orbax store.

  Attributes:
    store: folder of the store.
    path: path of the parameter, starting with its group.
    entry: Orbax metadata of the parameter.
    checksum: of its values, see ``checksums``; None in files of older versions.
  """

  store: epath.Path
  path: str
  entry: Any
  checksum: int | None = None

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(self.entry.shape)

  @property
  def dtype(self) -> np.dtype:
    return np.dtype(self.entry.dtype)

  def onto(self, sharding: jax.sharding.NamedSharding, dtype: np.dtype) -> jax.Array:
    array = self._read(ocp.ArrayRestoreArgs(sharding=sharding, dtype=self.dtype,
                                            global_shape=self.shape))
    self._check(lambda: checksums.of_arrays([array])['0'])
    return array.astype(dtype)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    array = self._read(ocp.RestoreArgs(restore_type=np.ndarray))
    self._check(lambda: checksums.of_numpy(array))
    return array if dtype is None else array.astype(dtype, copy=False)

  def _read(self, how: ocp.RestoreArgs) -> Any:
    return trees.flatten(_read(self.store, {self.path: self.entry}, how))[self.path]

  def _check(self, found: Callable[[], int]) -> None:
    if self.checksum is not None:
      checksums.check({self.path: found()}, {self.path: self.checksum}, str(self.store), _FIX)


def open_weights(folder: str, groups: Sequence[str], weights: str = 'ema') -> Params:
  """Opens parameter groups without reading their values.

  Args:
    folder, groups, weights: see ``load_weights``.

  Returns:
    ``{group: tree of Stored}``.

  Raises:
    UserError: not a workdir or weights folder, nothing saved yet, or damaged files.
  """
  return _opened(_stores(folder, weights), groups)


def open_frozen(workdir: str, groups: Sequence[str]) -> Params:
  """Opens groups of the parameters of a run that do not train, which are there before its first
  checkpoint is; otherwise as ``open_weights``."""
  return _opened([epath.Path(workdir).resolve() / 'frozen'], groups)


def _opened(stores: Sequence[epath.Path], groups: Sequence[str]) -> Params:
  found: dict[str, InStore] = {}
  for store in stores:
    sums = checksums.read(store)
    found |= {path: InStore(store, path, entry, sums.get(path))
              for path, entry in _entries(store, groups).items()}
  tree = trees.unflatten(found)
  return {group: tree.get(group, {}) for group in groups}


def load_weights(folder: str, groups: Sequence[str], weights: str = 'ema', *,
                 shapes: Params | None = None) -> tuple[Params, str]:
  """Reads parameter groups.

  Args:
    folder: a workdir, whose newest complete checkpoint is read, or a weights folder.
    groups: names of the groups; a group without parameters is returned empty.
    weights: ``ema`` (the plain parameters if the run keeps no EMA) or ``params``.
    shapes: tree with the groups and ``.shape`` at the leaves; if given, the weights must match it.

  Returns:
    ``({group: tree of numpy arrays}, text of config.json)``.

  Raises:
    UserError: not a workdir or weights folder, nothing saved yet, damaged files, or weights that
      do not match ``shapes``.
  """
  config = read_config(folder)
  params = trees.merge(*(_restore(store, groups) for store in _stores(folder, weights)))
  params = {group: params.get(group, {}) for group in groups}
  if shapes is not None:
    alone = is_run(folder) and not (epath.Path(folder) / 'frozen').exists()
    check_fit(params, {group: shapes.get(group, {}) for group in groups},
              f'{folder}, which has no frozen/' if alone else folder)
  return params, config


def save_weights(folder: str, params: Params, config_json: str) -> None:
  """Writes a weights folder atomically: fills a temporary sibling, then renames it.

  Args:
    folder: the folder to write; must be empty or not exist.
    params: ``{group: tree}``.
    config_json: text of config.json.

  Raises:
    UserError: the folder is not empty, or it cannot be written.
  """
  with new_folder(folder) as partial:
    write_text(partial / 'config.json', config_json)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(partial.resolve() / 'weights', params, save_args=jax.tree.map(
          lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK), params))
    checksums.write(partial / 'weights', {
        path: checksums.of_numpy(np.asarray(leaf))
        for path, leaf in trees.flatten(params).items()})


def is_run(folder: str) -> bool:
  """Whether ``folder`` is a workdir that has saved something."""
  return (epath.Path(folder) / 'checkpoints').exists()


def is_weights(folder: str) -> bool:
  """Whether ``folder`` is a workdir or weights folder rather than another library's model."""
  return any((epath.Path(folder) / name).exists() for name in ('weights', 'checkpoints', 'frozen'))


def newest_step(folder: str) -> int | None:
  """The step of a workdir's newest complete checkpoint; None before the first one."""
  checkpoints = epath.Path(folder).resolve() / 'checkpoints'  # Orbax requires an absolute path
  steps = ocp.utils.checkpoint_steps(checkpoints) if checkpoints.exists() else []
  return max(steps, default=None)


def read_config(folder: str) -> str:
  """Text of the folder's config.json, known to be a JSON object of a format that is known."""
  path = epath.Path(folder) / 'config.json'
  if not path.exists():
    raise user_error(str(folder), None, 'no config.json there; give a workdir or a weights folder')
  read_run(folder)
  return path.read_text()


def check_fit(params: Params, shapes: Params, where: str) -> None:
  """Raises one error that lists every missing, unknown and misshapen parameter."""
  found, wanted = ({path: tuple(leaf.shape) for path, leaf in trees.flatten(tree).items()}
                   for tree in (params, shapes))
  if text := mismatch(found, wanted):
    raise user_error(str(where), None, f'these weights do not fit config.model; {text}; use '
                     'weights of these families and sizes')


def _stores(folder: str, weights: str) -> list[epath.Path]:
  """The Orbax folders that together hold the parameters of a workdir or weights folder."""
  read_config(folder)  # raises if the folder is not one of ours
  if weights not in ('ema', 'params'):
    raise user_error('weights', weights, "must be 'ema' or 'params'")
  root = epath.Path(folder).resolve()  # Orbax requires an absolute path
  if (root / 'weights').exists():
    return [root / 'weights']
  newest = newest_step(folder)
  if newest is None:
    raise user_error(str(root), None, 'no checkpoint there yet; give a workdir after its first '
                     'save, or the output of `jaxgen convert import`')
  step = root / 'checkpoints' / str(newest)
  moving = step / 'ema' if weights == 'ema' and (step / 'ema').exists() else step / 'params'
  frozen = root / 'frozen'
  return [moving, frozen] if frozen.exists() else [moving]


def _restore(store: epath.Path, groups: Sequence[str]) -> Params:
  """Reads those of the groups that a store has, as numpy arrays, and nothing else."""
  entries = _entries(store, groups)
  if not entries:
    return {}
  params = _read(store, entries, ocp.RestoreArgs(restore_type=np.ndarray))
  saved = checksums.read(store)
  checksums.check({path: checksums.of_numpy(leaf) for path, leaf in trees.flatten(params).items()
                   if path in saved}, saved, str(store), _FIX)
  return params


def _entries(store: epath.Path, groups: Sequence[str]) -> dict[str, Any]:
  """Orbax metadata of the parameters of these groups, by path."""
  with reading(store, _FIX):
    tree = ocp.PyTreeCheckpointHandler().metadata(store).tree
  return trees.flatten({group: tree[group] for group in groups if group in tree})


def _read(store: epath.Path, entries: Mapping[str, Any], how: ocp.RestoreArgs) -> Params:
  """Reads the given parameters of a store and nothing else."""
  tree = trees.unflatten(entries)
  with reading(store, _FIX):
    return ocp.PyTreeCheckpointHandler().restore(store, args=ocp.args.PyTreeRestore(
        item=tree, restore_args=jax.tree.map(lambda _: how, tree), partial_restore=True))
