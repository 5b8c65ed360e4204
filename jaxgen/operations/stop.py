"""Handles SIGTERM (preemption): all hosts save the same step and exit."""

import signal
import threading
from types import FrameType

import jax
from jax.experimental import multihost_utils


class StopRequest:
  """Detects a SIGTERM on this host or any other."""

  def __init__(self):
    self._asked, self._before = False, None
    # With several processes JAX installs the handler, because they must agree on a step. Python
    # allows signal handlers in the main thread only.
    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGTERM, self._ask)

  def reached(self, step: int) -> bool:
    """Whether to save and stop after this step; the same answer on every host.

    Args:
      step: the step that was just started; every host must call this at every step.
    """
    return self._asked or multihost_utils.reached_preemption_sync_point(step)

  def __enter__(self) -> 'StopRequest':
    return self

  def __exit__(self, *error: object) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)

  def _ask(self, number: int, frame: FrameType | None) -> None:
    self._asked = True
