"""Counts the programs that jax makes, so that a run which compiles all the time can be seen."""

import jax

MADE = '/jax/core/compile/backend_compile_duration'  # once for each program, cached or not


class Programs:
  """Counts while it is entered, on all threads of this process.

  Attributes:
    count: programs so far.
  """

  def __init__(self):
    self.count = 0

  def __enter__(self) -> 'Programs':
    jax.monitoring.register_event_duration_secs_listener(self._hear)
    return self

  def __exit__(self, *error: object) -> None:
    jax.monitoring.unregister_event_duration_listener(self._hear)

  def _hear(self, event: str, seconds: float, **details: object) -> None:
    self.count += event == MADE
