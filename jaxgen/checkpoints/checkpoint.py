"""Asynchronous checkpoints of a run, independent of the number of hosts and devices.

``checkpoints/<step>/`` holds four items: ``params`` (trainable parameters), ``ema`` (if the run
keeps one), ``train`` (optimizer state, step, rng, counters) and ``data`` (cursors of all global
rows, and the checksums of all items). ``frozen/`` holds the frozen parameters, written once per
run. A step's folder is renamed to its final name only when it is complete, so a run that dies while
saving resumes from the previous checkpoint.
"""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from etils import epath
from jax.experimental import multihost_utils

from jaxgen.checkpoints import checksums
from jaxgen.checkpoints.damage import reading
from jaxgen.checkpoints.disk import disk_errors
from jaxgen.checkpoints.disk import reserve
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params

_SHARED_BYTES = 2**20  # of a slice that a replica writes
_KIND = 'damaged, or of another config'
_CURSORS = f'{checksums.ITEM}/cursors'


def _share_large_arrays_only() -> None:
  """Lets replicas share the writing of an array only where a slice is worth it: each slice of
  another shape compiles a program of its own, hundreds of them at the first save of a run."""
  verbosity = logging.get_verbosity()
  logging.set_verbosity(logging.ERROR)  # Orbax warns of every handler that is replaced
  ocp.type_handlers.register_type_handler(
      jax.Array, ocp.type_handlers.ArrayHandler(
          min_slice_bytes_for_replica_parallel=_SHARED_BYTES), override=True)
  logging.set_verbosity(verbosity)


_share_large_arrays_only()


class Checkpoints:
  """The checkpoints of one workdir."""

  def __init__(self, workdir: epath.Path, keep: int):
    """Opens the folder and removes the remains of interrupted saves.

    Args:
      workdir: the run's workdir.
      keep: number of newest checkpoints to keep.

    Raises:
      UserError: the folder cannot be written.
    """
    self._workdir = epath.Path(workdir).resolve()
    with disk_errors(self._workdir):
      self._manager = ocp.CheckpointManager(
          self._workdir / 'checkpoints',
          options=ocp.CheckpointManagerOptions(max_to_keep=keep, cleanup_tmp_directories=True))

  def latest(self) -> int | None:
    """The newest complete step; None if there is none yet."""
    return self._manager.latest_step()

  def save(self, step: int, items: Mapping[str, Any], cursors: np.ndarray) -> None:
    """Starts an asynchronous save; waits for the previous one, returns once arrays are copied.

    Args:
      step: optimizer steps done.
      items: name -> tree of arrays; may be donated to the next step as soon as this returns.
      cursors: int64[R, K], data cursors of all global rows.

    Raises:
      UserError: the files cannot be written, now or during the previous save.
    """
    saved = {name: ocp.args.StandardSave(tree) for name, tree in items.items()}
    saved[checksums.ITEM] = ocp.args.JsonSave({
        'cursors': cursors.tolist(),
        checksums.KEY: checksums.of_arrays(items) | {_CURSORS: checksums.of_numpy(cursors)}})
    with disk_errors(self._workdir):
      self._manager.wait_until_finished()
      reserve(self._workdir / 'checkpoints', _bytes_here(items))
      self._manager.save(step, args=ocp.args.Composite(**saved), force=True)

  def restore(self, step: int, items: Mapping[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
    """Restores the items of a step onto the current devices, and its cursors int64[R, K].

    Args:
      step: a complete step.
      items: name -> tree of ``ShapeDtypeStruct`` with shardings.

    Raises:
      UserError: the checkpoint has other shapes or is damaged.
    """
    wanted = {name: ocp.args.StandardRestore(tree) for name, tree in items.items()}
    wanted[checksums.ITEM] = ocp.args.JsonRestore()
    folder, aim = self._workdir / 'checkpoints' / str(step), 'resume from the one before'
    with reading(folder, f'delete it to {aim}', _KIND):
      restored = self._manager.restore(step, args=ocp.args.Composite(**wanted))
      cursors = np.asarray(restored[checksums.ITEM]['cursors'], np.int64)
      saved = restored[checksums.ITEM].get(checksums.KEY, {})
      restored = {name: restored[name] for name in items}
    found = checksums.of_arrays(restored) | {_CURSORS: checksums.of_numpy(cursors)}
    checksums.check(found, saved, str(folder), f'delete it to {aim}')
    return restored, cursors

  def save_frozen(self, frozen: Params) -> None:
    """Writes the frozen parameters, once per run, before the first checkpoint."""
    if frozen:
      folder, sums = self._workdir / 'frozen', checksums.of_arrays(frozen)
      with disk_errors(self._workdir):
        with ocp.StandardCheckpointer() as checkpointer:
          reserve(self._workdir, _bytes_here(frozen))
          checkpointer.save(folder, frozen, force=True)
        if jax.process_index() == 0:
          checksums.write(folder, sums)

  def restore_frozen(self, stored: Params) -> Params:
    """Restores the frozen parameters onto the current devices.

    Args:
      stored: tree of ``ShapeDtypeStruct`` with shardings.

    Raises:
      UserError: the files are missing or damaged.
    """
    if not stored:
      return {}
    folder = self._workdir / 'frozen'
    if not folder.exists():
      raise user_error(str(folder), None, 'missing, and this run has parameters that do not train; '
                       'copy it back from where the run was, or start again in another --workdir')
    aim = 'start again'
    with reading(folder, f'delete it to {aim}', _KIND), ocp.StandardCheckpointer() as checkpointer:
      restored, saved = checkpointer.restore(folder, stored), checksums.read(folder)
    checksums.check(checksums.of_arrays(restored), saved, str(folder), f'delete it to {aim}')
    return restored

  def close(self) -> None:
    """Waits until the last save is complete.

    Raises:
      UserError: the files cannot be written.
    """
    with disk_errors(self._workdir):
      self._manager.wait_until_finished()
    self._manager.close()


def gather_cursors(local: np.ndarray, lo: int, rows: int) -> np.ndarray:
  """Gathers each process's cursors int64[R_local, K], of rows from ``lo``, to int64[R, K]."""
  if jax.process_count() == 1:
    return local
  # Device arrays are limited to 32 bits (x64 is off), so each cursor is sent as two int32.
  halves = np.ascontiguousarray(local).view(np.int32)
  starts, parts = multihost_utils.process_allgather((np.asarray(lo, np.int32), halves))
  cursors = np.zeros((rows, halves.shape[1]), np.int32)
  for start, part in zip(starts, parts, strict=True):
    cursors[start:start + len(part)] = part
  return cursors.view(np.int64)


def _bytes_here(tree: Any) -> int:
  """Bytes that this process writes of a tree: the first replica of each of its shards."""
  return sum(shard.data.nbytes for leaf in jax.tree.leaves(tree)
             for shard in leaf.addressable_shards if shard.replica_id == 0)
