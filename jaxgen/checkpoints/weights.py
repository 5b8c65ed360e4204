"""Reads parameters from a workdir or a weights folder, and writes weights folders.

A workdir holds ``config.json``, ``checkpoints/<step>/{params,ema,...}`` (trainable parameters) and
``frozen/`` (frozen parameters). A weights folder holds ``config.json`` and ``weights/``. Both use
Orbax; values are read as numpy arrays, whatever devices wrote them.
"""

import abc
import contextlib
import dataclasses
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.mismatch import mismatch
from jaxgen.core.types import Params

_CHUNK = 1 << 20  # bytes per chunk, so reading a slice of a parameter reads little else


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
  """

  store: epath.Path
  path: str
  entry: Any

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(self.entry.shape)

  @property
  def dtype(self) -> np.dtype:
    return np.dtype(self.entry.dtype)

  def onto(self, sharding: jax.sharding.NamedSharding, dtype: np.dtype) -> jax.Array:
    return self._read(ocp.ArrayRestoreArgs(sharding=sharding, dtype=dtype,
                                           global_shape=self.shape))

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return self._read(ocp.RestoreArgs(restore_type=np.ndarray, dtype=dtype))

  def _read(self, how: ocp.RestoreArgs) -> Any:
    return trees.flatten(_read(self.store, {self.path: self.entry}, how))[self.path]


def open_weights(folder: str, groups: Sequence[str], weights: str = 'ema') -> Params:
  """Opens parameter groups without reading their values.

  Args:
    folder, groups, weights: see ``load_weights``.

  Returns:
    ``{group: tree of Stored}``.

  Raises:
    UserError: not a workdir or weights folder, nothing saved yet, or damaged files.
  """
  found: dict[str, InStore] = {}
  for store in _stores(folder, weights):
    found |= {path: InStore(store, path, entry)
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
    check_fit(params, {group: shapes.get(group, {}) for group in groups}, folder)
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
  target = epath.Path(folder)
  if target.exists() and any(target.iterdir()):
    raise user_error(str(folder), None, 'not empty; choose another --out or remove it')
  target.parent.mkdir(parents=True, exist_ok=True)
  partial = target.parent / f'{target.name}.partial-{uuid.uuid4().hex[:8]}'
  partial.mkdir()
  try:
    (partial / 'config.json').write_text(config_json)
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(partial.resolve() / 'weights', params, save_args=jax.tree.map(
          lambda _: ocp.SaveArgs(chunk_byte_size=_CHUNK), params))
    if target.exists():
      target.rmdir()
    partial.rename(target)
  except (OSError, ValueError) as error:
    text = ' '.join(str(error).split())[:200]
    raise user_error(str(folder), None, f'could not be written ({text}); free space or choose '
                     'another --out') from error
  finally:
    if partial.exists():
      partial.rmtree()


def is_weights(folder: str) -> bool:
  """Whether ``folder`` is a workdir or weights folder rather than another library's model."""
  return any((epath.Path(folder) / name).exists() for name in ('weights', 'checkpoints', 'frozen'))


def read_config(folder: str) -> str:
  """Text of the folder's config.json."""
  path = epath.Path(folder) / 'config.json'
  if not path.exists():
    raise user_error(str(folder), None, 'no config.json there; give a workdir or a weights folder')
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
  checkpoints = root / 'checkpoints'
  steps = ocp.utils.checkpoint_steps(checkpoints) if checkpoints.exists() else []
  if not steps:
    raise user_error(str(root), None, 'no checkpoint there yet; give a workdir after its first '
                     'save, or the output of `jaxgen convert import`')
  step = checkpoints / str(max(steps))
  moving = step / 'ema' if weights == 'ema' and (step / 'ema').exists() else step / 'params'
  frozen = root / 'frozen'
  return [moving, frozen] if frozen.exists() else [moving]


def _restore(store: epath.Path, groups: Sequence[str]) -> Params:
  """Reads those of the groups that a store has, as numpy arrays, and nothing else."""
  entries = _entries(store, groups)
  return _read(store, entries, ocp.RestoreArgs(restore_type=np.ndarray)) if entries else {}


def _entries(store: epath.Path, groups: Sequence[str]) -> dict[str, Any]:
  """Orbax metadata of the parameters of these groups, by path."""
  with _reading(store):
    tree = ocp.PyTreeCheckpointHandler().metadata(store).tree
  return trees.flatten({group: tree[group] for group in groups if group in tree})


def _read(store: epath.Path, entries: Mapping[str, Any], how: ocp.RestoreArgs) -> Params:
  """Reads the given parameters of a store and nothing else."""
  tree = trees.unflatten(entries)
  with _reading(store):
    return ocp.PyTreeCheckpointHandler().restore(store, args=ocp.args.PyTreeRestore(
        item=tree, restore_args=jax.tree.map(lambda _: how, tree), partial_restore=True))


@contextlib.contextmanager
def _reading(store: epath.Path) -> Iterator[None]:
  try:
    yield
  except (OSError, ValueError, KeyError) as error:
    text = ' '.join(str(error).split())[:200]
    raise user_error(str(store), None, f'damaged ({text}); use another checkpoint') from error
