"""What a run tells: metrics.jsonl, TensorBoard, the progress line, and bad batches."""

import contextlib
import hashlib
import json
import math
import os
import sys
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.training import workdir as workdirs

Ids = tuple[tuple[str, ...], ...]

# Dense bf16 FLOP/s of one device by a part of its name (Google's and NVIDIA's data sheets). A v5p
# calls itself TPU v5, a v5e TPU v5 lite.
PEAKS = {'v5p': 459e12, 'v6e': 918e12, 'v6 lite': 918e12, 'H100': 989e12, 'H800': 989e12,
         'H200': 989e12}


class Journal:
  """Keeps the record of a run. Metrics of a step are read while the next one is under way."""

  def __init__(self, config: ConfigDict, workdir: epath.Path, start: int, flops: float):
    """Opens the record at the step ``start``; what an interrupted run wrote later is cut.

    Args:
      config: of the run.
      workdir: its folder.
      start: steps done.
      flops: of one step, all devices together.
    """
    self._config, self._workdir, self._flops = config, workdir, flops
    self._leads = jax.process_index() == 0
    self._pending: tuple[int, dict[str, Any], Ids, float] | None = None
    self._file = self._board = None
    if self._leads:
      cut_lines(workdir / 'metrics.jsonl', start)
      self._file = (workdir / 'metrics.jsonl').open('a')
      self._board = _board(workdir)
    self._last = time.perf_counter()
    self._shown = (start, self._last)

  def put(self, step: int, metrics: dict[str, Any], ids: Ids, wait: float) -> None:
    """Takes the metrics of a step that was just started and records those of the one before.

    Args:
      step: its number, from 1.
      metrics: of the train step, still on the devices.
      ids: sample ids of the rows of this process.
      wait: seconds that the step waited for its batch.

    Raises:
      UserError: too many steps in a row were not finite, or the disk is full.
    """
    self.flush()
    self._pending = (step, metrics, ids, wait)

  def flush(self) -> None:
    """Waits for the last step and records it."""
    if self._pending is None:
      return
    step, metrics, ids, wait = self._pending
    self._pending = None
    record = self._record(step, jax.device_get(metrics), wait)
    if record['loss'] is None:
      _write_bad_batch(self._workdir, record, ids)
    if self._leads:
      with workdirs.disk_errors(self._workdir):
        self._file.write(json.dumps(record) + '\n')
        self._file.flush()
        self._show(step, record)
    if record['skipped_in_a_row'] >= self._config.train.halt_after:
      raise user_error('config.train.halt_after', self._config.train.halt_after, 'so many steps in '
                       f'a row had no finite loss or gradient, up to step {step}; see the samples '
                       f'in {self._workdir / "bad_batches"}, lower optimizer.learning_rate or '
                       'resume from an earlier checkpoint')

  def close(self) -> None:
    """Closes the files."""
    if self._leads:
      self._file.close()
      self._board.close()

  def _record(self, step: int, metrics: dict[str, Any], wait: float) -> dict[str, Any]:
    """One line of metrics.jsonl; the losses of tasks and timestep bins at log steps only."""
    now = time.perf_counter()
    seconds, self._last = max(now - self._last, 1e-9), now
    finite = bool(metrics['finite'])
    record = dict(
        step=step, loss=float(metrics['loss']) if finite else None,
        sample_ids=ids_hash(metrics['sample_ids']),
        grad_norm=float(metrics['grad_norm']) if finite else None,
        learning_rate=float(metrics['learning_rate']), skipped=int(metrics['skipped']),
        skipped_in_a_row=int(metrics['skipped_in_a_row']), seconds=seconds,
        images_per_second=float(metrics['images'] / seconds),
        tokens_per_second=float(metrics['tokens'] / seconds),
        padding=float(metrics['padding']), data_wait=min(wait / seconds, 1.0))
    record['tflops'] = self._flops / seconds / 1e12 / jax.device_count()
    if device_peak():
      record['mfu'] = record['tflops'] * 1e12 / device_peak()
    if self._is_log_step(step):
      record |= {f'{objective}/{name}': float(total / weight)
                 for objective, terms in metrics['terms'].items()
                 for name, (total, weight) in terms.items()
                 if weight > 0 and math.isfinite(total)}
    return record

  def _is_log_step(self, step: int) -> bool:
    return step % self._config.train.log_every == 0 or step == self._config.train.steps

  def _show(self, step: int, record: dict[str, Any]) -> None:
    if not self._is_log_step(step):
      return
    (before, then), self._shown = self._shown, (step, self._last)
    rate = (step - before) / (self._last - then)
    steps = self._config.train.steps
    loss = 'not finite' if record['loss'] is None else f'{record["loss"]:.4f}'
    print(f'{self._workdir.name}: step {step}/{steps}  loss {loss}  '
          f'{rate:.2f} steps/s  ETA {clock((steps - step) / rate)}',
          file=sys.stderr, flush=True)
    self._board.write_scalars(step, {name: value for name, value in record.items()
                                     if isinstance(value, (int, float)) and name != 'step'})


def ids_hash(ids: np.ndarray) -> str:
  """16 hex digits of the sample ids i32[R, G] of a global batch; their order matters."""
  return hashlib.sha256(np.ascontiguousarray(ids, np.int32).tobytes()).hexdigest()[:16]


def cut_lines(file: epath.Path, last: int) -> None:
  """Drops the lines of steps after ``last``, and a line that was not written to its end."""
  if not file.exists():
    return
  kept = []
  for line in file.read_text().splitlines():
    with contextlib.suppress(json.JSONDecodeError):
      if json.loads(line)['step'] <= last:
        kept.append(line + '\n')
  workdirs.write_text(file, ''.join(kept))


def clock(seconds: float) -> str:
  """Seconds as ``42s``, ``3m05s`` or ``2h07m``."""
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds}s'
  if seconds < 3600:
    return f'{seconds // 60}m{seconds % 60:02}s'
  return f'{seconds // 3600}h{seconds % 3600 // 60:02}m'


def device_peak() -> float:
  """Dense bf16 FLOP/s of one device of this run; 0 where it is not known, as on a CPU."""
  return peak_of(jax.devices()[0].device_kind)


def peak_of(kind: str) -> float:
  """Dense bf16 FLOP/s of a device by the name that jax gives it; 0 where it is not known."""
  kind = 'TPU v5p' if kind == 'TPU v5' else kind
  return next((peak for name, peak in PEAKS.items() if name in kind), 0.0)


def _board(workdir: epath.Path):
  """TensorBoard's event file; here and not above, as it imports TensorFlow for seconds."""
  # TensorFlow greets users with its build options; it writes files here and computes nothing.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  from clu.metric_writers.summary_writer import SummaryWriter
  return SummaryWriter(str(workdir))


def _write_bad_batch(workdir: epath.Path, record: dict[str, Any], ids: Ids) -> None:
  """Names the samples of a skipped step; each process those that it fed."""
  folder = workdir / 'bad_batches'
  part = '' if jax.process_count() == 1 else f'_process_{jax.process_index()}'
  with workdirs.disk_errors(workdir):
    folder.mkdir(parents=True, exist_ok=True)
    workdirs.write_text(folder / f'step_{record["step"]}{part}.json', json.dumps(
        {'step': record['step'], 'hash': record['sample_ids'], 'sample_ids': ids}, indent=2))
