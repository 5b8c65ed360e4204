"""Counts the programs that jax compiles, to make unexpected recompilation visible."""

import jax

MADE = '/jax/core/compile/backend_compile_duration'  # once per program, cached or not
REUSED = '/jax/compilation_cache/cache_hits'


class Programs:
  """Counts programs while its context is active, on all threads of this process.

  Attributes:
    count: number of programs so far.
    reused: number of those that came from the compilation cache.
  """

  def __init__(self):
    self.count = self.reused = 0

  @property
  def compiled(self) -> int:
    """Number of programs that were actually compiled."""
    return self.count - self.reused

  def __enter__(self) -> 'Programs':
    jax.monitoring.register_event_duration_secs_listener(self._hear_duration)
    jax.monitoring.register_event_listener(self._hear)
    return self

  def __exit__(self, *error: object) -> None:
    jax.monitoring.unregister_event_duration_listener(self._hear_duration)
    jax.monitoring.unregister_event_listener(self._hear)

  def _hear_duration(self, event: str, seconds: float, **details: object) -> None:
    self.count += event == MADE

  def _hear(self, event: str, **details: object) -> None:
    self.reused += event == REUSED
