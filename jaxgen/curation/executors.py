"""Where chunks are made: in this process, or by the workers of Ray."""

import functools
import importlib.util
from collections.abc import Callable
from collections.abc import Sequence

from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.curation.engine import Job
from jaxgen.curation.engine import Worker
from jaxgen.data.commands import Progress

Execute = Callable[[Worker, int, Sequence[int], int], None]


def executor(engine: str, gpus: int = 0) -> Execute:
  """``(worker, phase, chunks, all)`` that makes the chunks of a phase which are left.

  Args:
    engine: ``local``, in this process; ``ray``, on this machine; or ``ray:ADDRESS`` of a cluster,
      whose machines share the file systems of ``--in`` and ``--out``.
    gpus: of each of Ray's workers, in phases that run a model on them.

  Raises:
    UserError: there is no such engine, or ray is not installed.
  """
  kind, _, address = engine.partition(':')
  if kind == 'local' and not address:
    return _local
  if kind != 'ray':
    raise user_error('--engine', engine, 'use local, ray or ray:ADDRESS')
  if importlib.util.find_spec('ray') is None:
    raise user_error('--engine', engine, 'needs the package ray; pip install "jaxgen[ray]"')
  return lambda worker, phase, chunks, count: _ray(worker, phase, chunks, count, address, gpus)


def _local(worker: Worker, phase: int, chunks: Sequence[int], count: int) -> None:
  progress, done = Progress('chunks'), count - len(chunks)
  for number, chunk in enumerate(chunks, start=1):
    worker(phase, chunk)
    progress(done + number, count)


def _ray(worker: Worker, phase: int, chunks: Sequence[int], count: int, address: str, gpus: int
         ) -> None:
  """Actors are sent numbers of chunks; what a chunk holds never leaves its worker."""
  import ray
  if not chunks:
    return
  job = worker.job
  if not ray.is_initialized():
    ray.init(address or None, num_cpus=None if address else job.workers,
             include_dashboard=None if address else False, log_to_driver=False)
  room = _room(gpus) if gpus else 0  # too few are refused in the first phase, which may need none
  gpus = gpus if worker.computes(phase) else 0
  workers = min(job.workers, len(chunks), room if gpus else len(chunks))
  # A worker that dies, with its machine or for memory, is started again and its chunk repeated.
  actor = ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=3)(_Actor)
  pool = ray.util.ActorPool([actor.remote(job) for _ in range(workers)])
  progress, done = Progress('chunks'), count - len(chunks)
  made = pool.map_unordered(lambda actor, chunk: actor.make.remote(phase, chunk), chunks)
  for number, error in enumerate(made, start=1):
    if error:
      raise UserError(error)
    progress(done + number, count)


def _room(gpus: int) -> int:
  """Workers of so many GPUs that the machines have: the chunk of one more would wait forever."""
  import ray
  found = [int(node['Resources'].get('GPU', 0)) for node in ray.nodes() if node['Alive']]
  if max(found) < gpus:
    raise user_error('--gpus-per-worker', gpus, f'no machine of Ray has more than {max(found)}; '
                     'ask for fewer, or start Ray where there are more')
  return sum(each // gpus for each in found)


class _Actor:
  """A worker in a process of Ray, which opens the job when it is first asked."""

  def __init__(self, job: Job):
    self._open = functools.cache(lambda: Worker(job))

  def make(self, phase: int, chunk: int) -> str:
    """Makes a chunk; a mistake of the user comes back as its message, '' is none."""
    try:
      self._open()(phase, chunk)
    except UserError as error:
      return str(error)
    return ''
