"""Profiles chosen steps for xprof: a timeline of devices and hosts."""

import sys
from typing import Any

import jax
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.sharding.hosts import Hosts

NAME = 'train'  # name of the step annotations in the trace


class Trace:
  """Writes one trace into ``plugins/profile`` of the workdir, where TensorBoard finds it.

  Trace files are named by host, so only the first process of each host traces.
  """

  def __init__(self, steps: tuple[int, int] | None, workdir: epath.Path, hosts: Hosts, done: int,
               last: int):
    """Checks that the steps lie ahead.

    Args:
      steps: first and last step to trace; None traces nothing.
      workdir: the run's workdir.
      hosts: the hosts of the run.
      done: number of steps already done.
      last: last step of the run.

    Raises:
      UserError: the run will execute none of the steps.
    """
    if steps and not (done < steps[1] and steps[0] <= last):
      raise user_error('--profile', f'{steps[0]}:{steps[1]}',
                       f'this run goes from step {done + 1} to {last}; choose some of these')
    first_here = hosts.names.index(hosts.names[hosts.index]) == hosts.index
    self._steps = steps if first_here else None
    self._workdir, self._runs = workdir, False

  def step(self, number: int, state: Any) -> jax.profiler.StepTraceAnnotation:
    """Context to run a step in; annotates the step in the trace.

    Args:
      number: the step's number.
      state: the train state before the step; the trace starts once it has been computed.
    """
    if self._steps and not self._runs and self._steps[0] <= number <= self._steps[1]:
      jax.block_until_ready(state)
      options = jax.profiler.ProfileOptions()
      options.python_tracer_level = 0  # tracing every Python call would slow the hosts down
      options.session_id = f'steps_{self._steps[0]}_{self._steps[1]}'  # the same on all hosts
      jax.profiler.start_trace(str(self._workdir), profiler_options=options)
      self._runs = True
    return jax.profiler.StepTraceAnnotation(NAME, step_num=number)

  def ends(self, number: int) -> bool:
    """Whether ``close`` is due after this step; writing the trace may take a while."""
    return self._runs and number == self._steps[1]

  def close(self, state: Any = None) -> None:
    """Writes the trace, if one is running, after ``state`` has been computed."""
    if not self._runs:
      return
    jax.block_until_ready(state)
    jax.profiler.stop_trace()
    self._runs = False
    if jax.process_index() == 0:
      print(f'{self._workdir.name}: traced; tensorboard --logdir={self._workdir} shows it where '
            'xprof is installed', file=sys.stderr, flush=True)


def parse_steps(text: str) -> tuple[int, int] | None:
  """``FROM:TO`` of --profile as numbers of steps; None for the empty text.

  Raises:
    UserError: anything else.
  """
  if not text:
    return None
  first, colon, last = text.partition(':')
  if not (colon and first.isdigit() and last.isdigit() and 0 < int(first) <= int(last)):
    raise user_error('--profile', text, 'write FROM:TO, the first and the last step, as 10:12')
  return int(first), int(last)
