"""Goodput: the share of wall time, over all starts of a run, that went into steps that count.

``starts.jsonl`` in the workdir has a line for each start and one for each time that all steps were
done. Time that a run waited for a machine counts; time after it was done does not.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from etils import epath

from jaxgen.core.files import read_lines
from jaxgen.core.files import write_text

FILE = 'starts.jsonl'


class Goodput:
  """Adds up the steps of a run and divides by its wall time; one process of a run keeps it."""

  def __init__(self, workdir: epath.Path, began: float, start: int,
               lines: Iterable[Mapping[str, Any]]):
    """Notes this start.

    Args:
      workdir: of the run.
      began: when it was asked for, by ``time.time()``.
      start: steps done.
      lines: of metrics.jsonl up to that step. Steps that were computed and lost are not there;
        of those done before starts were noted, nothing is known.
    """
    self._file = workdir / FILE
    self._events = read_lines(self._file)
    self._note(time=began, step=start)
    self._useful = 0.0
    for line in lines:
      if line['step'] > self._events[0]['step']:
        self.add(line)

  def add(self, line: Mapping[str, Any]) -> None:
    """Adds a step by its line of metrics.jsonl; one that was skipped changed nothing."""
    if line['loss'] is not None:
      self._useful += line['seconds']

  def share(self, now: float) -> float:
    """The goodput at ``now``, by ``time.time()``."""
    return self._useful / max(wall_time(self._events, now), 1e-9)

  def done(self, now: float, step: int) -> None:
    """Notes that all steps are done."""
    self._note(time=now, step=step, done=True)

  def _note(self, **event: Any) -> None:
    self._events.append(event)
    write_text(self._file, ''.join(json.dumps(event) + '\n' for event in self._events))


def wall_time(events: Iterable[Mapping[str, Any]], now: float) -> float:
  """Seconds from the first start to ``now``, less those between being done and starting again."""
  total, since = 0.0, None
  for event in events:
    if since is None:
      since = event['time']
    elif 'done' in event:
      total, since = total + event['time'] - since, None
  return total + (now - since if since is not None else 0.0)
