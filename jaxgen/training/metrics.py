"""Run logging: metrics.jsonl, trackers, the progress line, and records of bad batches."""

import dataclasses
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxgen.checkpoints.disk import disk_errors
from jaxgen.core.errors import user_error
from jaxgen.core.files import read_lines
from jaxgen.core.files import write_text
from jaxgen.core.hardware import peak_of
from jaxgen.operations.goodput import Goodput
from jaxgen.operations.programs import Programs
from jaxgen.training import trackers
from jaxgen.training.latents import StepInput

# What readers of metrics.jsonl count on, and the types.
NEEDED = {'step': int, 'loss': (int, float, type(None)), 'seconds': (int, float)}
Ids = tuple[tuple[str, ...], ...]
# Metrics and images uint8[H, W, 3] of a validation.
Found = tuple[Mapping[str, float], Mapping[str, np.ndarray]]


class Journal:
  """Logs the metrics of a run; the metrics of a step are fetched while the next one runs."""

  def __init__(self, config: ConfigDict, workdir: epath.Path, start: int, began: float,
               flops: Mapping[str, float], programs: Programs):
    """Opens the logs at step ``start``; later lines of an interrupted run are removed.

    Args:
      config: the run's config.
      workdir: the run's workdir.
      start: steps done so far.
      began: ``time.time()`` when this start was launched.
      flops: FLOPs per step, summed over devices: ``trained`` and ``frozen``.
      programs: counter of compiled programs.
    """
    self._config, self._workdir, self._start, self._began = config, workdir, start, began
    self._offset = time.time() - time.monotonic()  # the clock may be set while the run goes on
    self._flops, self._programs = flops, programs
    self._leads = jax.process_index() == 0
    self._pending: tuple[int, dict[str, Any], StepInput] | None = None
    self._file = self._goodput = None
    self._trackers: list[trackers.Tracker] = []
    if self._leads:
      lines = cut_lines(workdir / 'metrics.jsonl', start)
      self._goodput = Goodput(workdir, began, start, lines)
      self._file = (workdir / 'metrics.jsonl').open('a')
      self._trackers = trackers.opened(config, workdir)
    self._last = time.perf_counter()
    self._shown = (start, self._last)

  def put(self, step: int, metrics: dict[str, Any], fed: StepInput) -> None:
    """Queues the metrics of a step that was just started, and logs those of the previous step.

    Args:
      step: the step's number, starting at 1.
      metrics: metrics of the train step, still on the devices.
      fed: input of the step.

    Raises:
      UserError: too many steps in a row were not finite, or the disk is full.
    """
    self.flush()
    if self._leads and step == self._start + 1:
      print(f'{self._workdir.name}: step {step} begins after {self._now() - self._began:.1f} s; '
            f'{self._programs.count} programs, {self._programs.compiled} compiled', file=sys.stderr,
            flush=True)
    self._pending = (step, metrics, dataclasses.replace(fed, batch=None))

  def flush(self, validate: Callable[[], Found] = lambda: ({}, {})) -> None:
    """Waits for the last step and logs it.

    Args:
      validate: called behind the step; its metrics join the step's line, its images and metrics go
        to TensorBoard.
    """
    if self._pending is None:
      return
    step, metrics, fed = self._pending
    self._pending = None
    record = self._record(step, jax.device_get(metrics), fed)
    if record['loss'] is None:
      _write_bad_batch(self._workdir, record, fed.ids)
    found, images = validate()
    if self._leads:
      self._goodput.add(record)
      record['goodput'] = self._goodput.share(self._now())
      with disk_errors(self._workdir):
        self._file.write(json.dumps(record | found) + '\n')
        self._file.flush()
        self._show(step, record)
        if found or images:
          self._show_validation(step, found, images)
    if record['skipped_in_a_row'] >= self._config.train.halt_after:
      raise user_error('config.train.halt_after', self._config.train.halt_after, 'so many steps in '
                       f'a row had no finite loss or gradient, up to step {step}; see the samples '
                       f'in {self._workdir / "bad_batches"}, lower optimizer.learning_rate or '
                       'resume from an earlier checkpoint')

  def close(self) -> None:
    """Closes the files."""
    if self._leads:
      self._file.close()
      for tracker in self._trackers:
        tracker.close()

  def done(self, step: int) -> None:
    """Records that ``step`` was the last step of the run."""
    if self._leads:
      self._goodput.done(self._now(), step)

  def _now(self) -> float:
    """``time.time()``, had nobody set the clock since the start."""
    return self._offset + time.monotonic()

  def _record(self, step: int, metrics: dict[str, Any], fed: StepInput) -> dict[str, Any]:
    """One line of metrics.jsonl; losses of parts and norms of groups at log steps only."""
    now = time.perf_counter()
    # Timed from the end of the previous step, or from this step's start if it followed a save.
    seconds, self._last = max(now - max(self._last, fed.asked), 1e-9), now
    finite = bool(metrics['finite'])
    record = dict(
        step=step, loss=float(metrics['loss']) if finite else None,
        sample_ids=ids_hash(metrics['sample_ids']),
        grad_norm=float(metrics['grad_norm']) if finite else None,
        learning_rate=float(metrics['learning_rate']), skipped=int(metrics['skipped']),
        skipped_in_a_row=int(metrics['skipped_in_a_row']), seconds=seconds,
        images_per_second=float(metrics['images'] / seconds),
        tokens_per_second=float(metrics['tokens'] / seconds),
        padding=float(metrics['padding']), data_wait=min(fed.wait / seconds, 1.0),
        programs=self._programs.count, compiled=self._programs.compiled)
    record |= flops_rates(self._flops, seconds * jax.device_count(), device_peak())
    peak = memory_peak([device.memory_stats() for device in jax.local_devices()])
    if peak is not None:
      record['hbm_peak_gb'] = peak / 1e9
    if self._is_log_step(step):
      record |= {f'{objective}/{name}': float(total / weight)
                 for objective, terms in metrics['terms'].items()
                 for name, (total, weight) in terms.items()
                 if weight > 0 and math.isfinite(total)}
      record |= {f'{kind}/{group}': float(norm) for kind in ('update_norm', 'param_norm')
                 for group, norm in metrics[f'{kind}s'].items() if finite}
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
    scalars = {name: value for name, value in record.items()
               if isinstance(value, (int, float)) and name != 'step'}
    for tracker in self._trackers:
      tracker.write_scalars(step, scalars)

  def _show_validation(self, step: int, found: Mapping[str, float],
                       images: Mapping[str, np.ndarray]) -> None:
    losses = [f'{name} {value:.4f}' for name, value in found.items() if name.count('/') == 2]
    if losses:
      print(f'{self._workdir.name}: step {step}: {", ".join(losses)}', file=sys.stderr, flush=True)
    for tracker in self._trackers:
      tracker.write_scalars(step, dict(found))
      tracker.write_images(step, {name: image[None] for name, image in images.items()})


def ids_hash(ids: np.ndarray) -> str:
  """Hash of the sample ids i32[R, G] of a global batch, 16 hex digits; depends on their order."""
  return hashlib.sha256(np.ascontiguousarray(ids, np.int32).tobytes()).hexdigest()[:16]


def cut_lines(file: epath.Path, last: int) -> list[dict[str, Any]]:
  """Removes the lines of steps after ``last``, and a truncated line.

  Returns:
    The remaining lines.
  """
  kept = [line for line in read_lines(file, NEEDED) if line['step'] <= last]
  if file.exists():
    write_text(file, ''.join(json.dumps(line) + '\n' for line in kept))
  return kept


def clock(seconds: float) -> str:
  """Formats seconds as ``42s``, ``3m05s`` or ``2h07m``."""
  seconds = round(seconds)
  if seconds < 60:
    return f'{seconds}s'
  if seconds < 3600:
    return f'{seconds // 60}m{seconds % 60:02}s'
  return f'{seconds // 3600}h{seconds % 3600 // 60:02}m'


def flops_rates(flops: Mapping[str, float], seconds: float, peak: float) -> dict[str, float]:
  """``tflops`` and ``frozen_tflops`` per device, and ``mfu`` (of ``tflops``) if the peak is known.

  Args:
    flops: FLOPs per step, summed over devices: ``trained`` and ``frozen``.
    seconds: device-seconds: the step time multiplied by the number of devices.
    peak: peak FLOP/s of a device; 0 if unknown.
  """
  trained, frozen = flops['trained'] / seconds, flops['frozen'] / seconds
  return dict(tflops=trained / 1e12, frozen_tflops=frozen / 1e12) | (
      dict(mfu=trained / peak) if peak else {})


def device_peak() -> float:
  """Peak dense bf16 FLOP/s of one device of this run; 0 if unknown, as for a CPU."""
  return peak_of(jax.devices()[0].device_kind)


def memory_peak(stats: Sequence[Mapping[str, int] | None]) -> int | None:
  """Peak memory of the fullest device in bytes; None on platforms without statistics (CPU).

  Args:
    stats: the devices' ``memory_stats()``.
  """
  return max((each['peak_bytes_in_use'] for each in stats if each), default=None)


def _write_bad_batch(workdir: epath.Path, record: dict[str, Any], ids: Ids) -> None:
  """Records the sample ids of a skipped step; each process writes those of its own rows."""
  folder = workdir / 'bad_batches'
  part = '' if jax.process_count() == 1 else f'_process_{jax.process_index()}'
  with disk_errors(workdir):
    write_text(folder / f'step_{record["step"]}{part}.json', json.dumps(
        {'step': record['step'], 'hash': record['sample_ids'], 'sample_ids': ids}, indent=2))
