"""Connects the processes of one run, from flags, our environment variables or a launcher's."""

import dataclasses
import glob
import importlib.util
import os
import re
import socket
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence

import jax

from jaxgen.core.errors import user_error
from jaxgen.core.quiet import tpu_chips
from jaxgen.sharding.hosts import Hosts

COORDINATOR = 'JAXGEN_COORDINATOR'
NUM_PROCESSES = 'JAXGEN_NUM_PROCESSES'
PROCESS_ID = 'JAXGEN_PROCESS_ID'
PORT = 8476
METADATA = 'GCE_METADATA_IP'  # overrides the metadata server in Google's libraries
CONNECT_SECONDS = 300  # allows for the slowest host to start
# Our heartbeat (operations/watch.py) detects and names a silent host earlier; JAX's only aborts.
HEARTBEAT_SECONDS = 240
SHUTDOWN_SECONDS = 60

Environ = Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Start:
  """What a process needs to join a run.

  Attributes:
    launcher: launcher that provided these values.
    coordinator: ``host:port`` of process 0.
    processes: number of processes.
    process: index of this process.
    local: (local rank, number of processes) on this machine.
  """

  launcher: str
  coordinator: str
  processes: int
  process: int
  local: tuple[int, int] = (0, 1)


def start_processes(coordinator: str = '', num_processes: int = 0, process_id: int = -1) -> Hosts:
  """Joins this process to its run; must be called before the first use of a device.

  Args:
    coordinator, num_processes, process_id: see ``find_start``.

  Returns:
    The hosts of the run; just this one for a single process.

  Raises:
    UserError: missing or inconsistent variables, or hosts that do not connect.
  """
  start = find_start(os.environ, coordinator, num_processes, process_id)
  if start is None or start.processes == 1:
    return Hosts(None, 0, 1)
  try:
    # JAX's own cluster detection is off because it would give each process a single GPU.
    jax.distributed.initialize(
        start.coordinator, start.processes, start.process,
        local_device_ids=local_devices(start, os.environ), cluster_detection_method='deactivate',
        initialization_timeout=CONNECT_SECONDS, heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS)
  except jax.errors.JaxRuntimeError as error:
    text = ' '.join(str(error).split())[:300]
    raise user_error(f'process {start.process} of {start.processes} ({start.launcher})',
                     start.coordinator, 'could not join the others there; check that every '
                     f'process was started and reaches that port ({text})') from error
  hosts = Hosts.join(start.process, start.processes)
  print(f'jaxgen: {hosts.label(start.process)} of {start.processes}, by {start.launcher}; '
        f'{hosts.label(0)} coordinates at {start.coordinator}', file=sys.stderr, flush=True)
  return hosts


def find_start(environ: Environ, coordinator: str = '', num_processes: int = 0,
               process_id: int = -1) -> Start | None:
  """Finds out how this process joins its run; None for a run of one process.

  Args:
    environ: environment variables of the process.
    coordinator: ``host:port`` of process 0, the name of a launcher in ``LAUNCHERS``, ``auto``
      for the first of them whose variables are set, or ``none`` for a run of one process.
      Defaults to ``JAXGEN_COORDINATOR``, then ``auto``.
    num_processes: number of processes, used with ``host:port`` only; defaults to
      ``JAXGEN_NUM_PROCESSES``.
    process_id: index of this process, used with ``host:port`` only; defaults to
      ``JAXGEN_PROCESS_ID``.

  Raises:
    UserError: missing or inconsistent variables.
  """
  coordinator = coordinator or environ.get(COORDINATOR, '') or 'auto'
  if coordinator == 'none':
    return None
  if coordinator == 'auto':
    found = (launcher(environ) for launcher in LAUNCHERS.values())
    return _checked(next((start for start in found if start), None))
  if coordinator in LAUNCHERS:
    start = LAUNCHERS[coordinator](environ | {COORDINATOR: coordinator})
    if start is None:
      raise user_error(COORDINATOR, coordinator, 'its variables are not set here; start the '
                       'processes with that launcher, or use auto')
    return _checked(start)
  if not re.fullmatch(r'.+:\d+', coordinator):
    raise user_error(COORDINATOR, coordinator,
                     f'use host:port, auto, none or one of {", ".join(LAUNCHERS)}')
  return _checked(Start(
      'explicit', coordinator, num_processes or _number(environ, NUM_PROCESSES),
      process_id if process_id >= 0 else _number(environ, PROCESS_ID)))


def local_devices(start: Start, environ: Environ) -> Sequence[int] | None:
  """The local GPU indices of this process if several share a machine; None = all visible GPUs.

  Raises:
    UserError: the GPUs do not divide evenly among the processes.
  """
  rank, count = start.local
  listed = environ.get('CUDA_VISIBLE_DEVICES', '')
  gpus = len(listed.split(',')) if listed else len(glob.glob('/dev/nvidia[0-9]*'))
  if count == 1 or gpus <= 1 or 'SLURM_GPUS_PER_TASK' in environ:  # assigned by the launcher
    return None
  if gpus % count:
    raise user_error('CUDA_VISIBLE_DEVICES', listed or None, f'{count} processes cannot share '
                     f'{gpus} GPUs evenly; start 1 process, or a divisor of {gpus}')
  each = gpus // count
  return list(range(rank * each, (rank + 1) * each))


def _checked(start: Start | None) -> Start | None:
  if start and not 0 <= start.process < start.processes:
    raise user_error(f'process number ({start.launcher})', start.process, f'must be 0 to '
                     f'{start.processes - 1}, as there are {start.processes} processes')
  return start


def _torchrun(environ: Environ) -> Start | None:
  if not {'RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'} <= environ.keys():
    return None
  # torchrun itself listens on MASTER_PORT, so take the next one.
  port = _number(environ, 'MASTER_PORT') + ('TORCHELASTIC_RUN_ID' in environ)
  return Start('torchrun', f'{environ["MASTER_ADDR"]}:{port}', _number(environ, 'WORLD_SIZE'),
               _number(environ, 'RANK'), _local(environ, 'LOCAL_RANK', 'LOCAL_WORLD_SIZE'))


def _open_mpi(environ: Environ) -> Start | None:
  if 'OMPI_COMM_WORLD_SIZE' not in environ:
    return None
  size = _number(environ, 'OMPI_COMM_WORLD_SIZE')
  local = _local(environ, 'OMPI_COMM_WORLD_LOCAL_RANK', 'OMPI_COMM_WORLD_LOCAL_SIZE')
  # Open MPI 4 exports the address of mpirun; 5 does not.
  uri = environ.get('OMPI_MCA_orte_hnp_uri', '')
  old, six = re.search(r'tcp://([^,:]+)', uri), re.search(r'tcp6://\[([^,\]]+)', uri)
  host = (environ.get('MASTER_ADDR') or ('localhost' if local[1] == size else '')
          or (old[1] if old else f'[{six[1]}]' if six else ''))
  if not host:
    raise user_error('MASTER_ADDR', '', 'this Open MPI does not say where rank 0 runs; add '
                     '-x MASTER_ADDR=HOST to mpirun')
  return Start('openmpi', f'{host}:{environ.get("MASTER_PORT", PORT)}', size,
               _number(environ, 'OMPI_COMM_WORLD_RANK'), local)


def _slurm(environ: Environ) -> Start | None:
  # Step variables are set under srun only; the batch script itself is a single process.
  if not {'SLURM_STEP_NODELIST', 'SLURM_STEP_NUM_TASKS', 'SLURM_PROCID'} <= environ.keys():
    return None
  each = []
  for part in environ.get('SLURM_STEP_TASKS_PER_NODE', '1').split(','):
    tasks, times = re.fullmatch(r'(\d+)(?:\(x(\d+)\))?', part).groups()
    each += [int(tasks)] * int(times or 1)
  local = (int(environ.get('SLURM_LOCALID', 0)), each[int(environ.get('SLURM_NODEID', 0))])
  # Below Linux's ephemeral port range, and different for other jobs on the same node.
  port = environ.get('MASTER_PORT', 20_000 + _number(environ, 'SLURM_JOB_ID') % 10_000)
  return Start('slurm', f'{first_host(environ["SLURM_STEP_NODELIST"])}:{port}',
               _number(environ, 'SLURM_STEP_NUM_TASKS'), _number(environ, 'SLURM_PROCID'), local)


def first_host(nodes: str) -> str:
  """The first host of a Slurm node list such as ``gpu-[003-007,012],login1``."""
  first = re.match(r'(?:[^,\[]|\[[^\]]*\])+', nodes)[0]
  return re.sub(r'\[([^\],-]+)[^\]]*\]', r'\1', first)


def _tpu(environ: Environ) -> Start | None:
  """Reads GKE's variables, else the metadata server of a Cloud TPU VM."""
  if 'TPU_WORKER_HOSTNAMES' in environ:
    workers = environ['TPU_WORKER_HOSTNAMES'].split(',')
    worker, slices = _number(environ, 'TPU_WORKER_ID'), environ
  elif environ.get(COORDINATOR) == 'tpu' or _on_tpu_vm():
    workers = [entry.split(':')[-1] for entry in
               _metadata(environ, 'worker-network-endpoints').split(',')]
    worker = int(_metadata(environ, 'agent-worker-number'))
    lines = _metadata(environ, 'tpu-env').splitlines()
    slices = {name.strip(): value.strip().strip("'") for name, _, value in
              (line.partition(':') for line in lines)}
  else:
    return None
  count, index = int(slices.get('MEGASCALE_NUM_SLICES') or 1), int(
      slices.get('MEGASCALE_SLICE_ID') or 0)
  host = (slices.get('MEGASCALE_COORDINATOR_ADDRESS') or workers[0]).split(':')[0]
  return Start('tpu', f'{host}:{PORT}', len(workers) * count, index * len(workers) + worker)


def _kubernetes(environ: Environ) -> Start | None:
  """An indexed Job, alone or in a JobSet; launch/gke_jobset.yaml sets what Kubernetes does not."""
  if 'JOB_COMPLETION_INDEX' not in environ:
    return None
  index, processes = (_number(environ, name) for name in ('JOB_COMPLETION_INDEX', NUM_PROCESSES))
  if 'JOBSET_NAME' in environ:
    jobset = environ['JOBSET_NAME']
    host = f'{jobset}-{environ["REPLICATED_JOB_NAME"]}-0-0.{jobset}'
    index += _number(environ, 'JOB_INDEX') * _number(environ, 'PODS_PER_JOB')
  else:
    name, _, domain = environ.get('HOSTNAME', socket.gethostname()).partition('.')
    domain = environ.get('JAXGEN_SUBDOMAIN', domain)
    host = re.sub(r'-\d+$', '-0', name) + (f'.{domain}' if domain else '')
  return Start('kubernetes', f'{host}:{PORT}', processes, index)


# Innermost first, since one launcher may run inside another.
LAUNCHERS: dict[str, Callable[[Environ], Start | None]] = {
    'torchrun': _torchrun, 'openmpi': _open_mpi, 'slurm': _slurm, 'tpu': _tpu,
    'kubernetes': _kubernetes}


def _on_tpu_vm() -> bool:
  return bool(tpu_chips()) and importlib.util.find_spec('libtpu') is not None


def _metadata(environ: Environ, key: str) -> str:
  server = environ.get(METADATA, 'metadata.google.internal')
  request = urllib.request.Request(
      f'http://{server}/computeMetadata/v1/instance/attributes/{key}',
      headers={'Metadata-Flavor': 'Google'})
  try:
    with urllib.request.urlopen(request, timeout=60) as reply:
      return reply.read().decode().strip()
  except (urllib.error.URLError, TimeoutError) as error:
    raise user_error(f'TPU metadata {key}', None, f'{server} does not answer ({error}); set '
                     f'{COORDINATOR} to host:port, or to none for this host alone') from error


def _local(environ: Environ, rank: str, count: str) -> tuple[int, int]:
  return int(environ.get(rank, 0)), int(environ.get(count, 1))


def _number(environ: Environ, variable: str) -> int:
  text = environ.get(variable, '')
  if not text.isdigit():
    raise user_error(variable, text, 'must be a number here; docs/multihost.md says which '
                     'variables each launcher needs')
  return int(text)
