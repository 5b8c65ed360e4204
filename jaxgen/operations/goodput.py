"""Goodput: the share of wall time, over all starts of a run, that was spent on useful steps.

``starts.jsonl`` in the workdir has a line for each start and each completion of all steps. Wall
time includes waiting for a machine between starts, but not the time after a completion.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from jaxgen.core.files import read_lines
from jaxgen.core.files import write_text

FILE = 'starts.jsonl'
_NEEDED = {'time': (int, float), 'step': int}


class Goodput:
  """Divides the time of a run's useful steps by its wall time; only one process keeps it."""

  def __init__(self, workdir: epath.Path, began: float, start: int,
               lines: Iterable[Mapping[str, Any]]):
    """Records this start.

    Args:
      workdir: the run's workdir.
      began: ``time.time()`` when the run was launched.
      start: steps done so far.
      lines: lines of metrics.jsonl up to that step. Steps that were computed and then lost are not
        among them; steps from before ``starts.jsonl`` existed are ignored.
    """
    self._file = workdir / FILE
    self._events = read_lines(self._file, _NEEDED)
    self._note(time=began, step=start)
    self._useful = 0.0
    for line in lines:
      if line['step'] > self._events[0]['step']:
        self.add(line)

  def add(self, line: Mapping[str, Any]) -> None:
    """Adds a step from its line of metrics.jsonl; skipped steps do not count."""
    if line['loss'] is not None:
      self._useful += line['seconds']

  def share(self, now: float) -> float:
    """The goodput at ``now`` (``time.time()``), a share in [0, 1].

    Where the clock was set back, less wall time is known than has passed, but no less than the
    useful steps took.
    """
    return self._useful / max(wall_time(self._events, now), self._useful, 1e-9)

  def done(self, now: float, step: int) -> None:
    """Records that all steps are done."""
    self._note(time=now, step=step, done=True)

  def _note(self, **event: Any) -> None:
    self._events.append(event)
    write_text(self._file, ''.join(json.dumps(event) + '\n' for event in self._events))


def wall_time(events: Iterable[Mapping[str, Any]], now: float) -> float:
  """Seconds from the first start to ``now``, excluding time between a completion and a restart.

  An interval in which the clock was set back counts as none.
  """
  total, since = 0.0, None
  for event in events:
    if since is not None:
      total += max(event['time'] - since, 0.0)
    since = None if 'done' in event else event['time']
  return total + (max(now - since, 0.0) if since is not None else 0.0)
