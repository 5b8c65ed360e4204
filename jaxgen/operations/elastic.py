"""Elastic restarts: a run resumes on other devices with the same global batch.

``topology.json`` in the workdir records the devices of the last start. Data cursors belong to
global rows and checkpoints do not depend on the mesh, so only the number of micro-batches has to
be recomputed. A device never gets more rows per micro-batch than at the first start, because more
might not fit its memory.
"""

import copy
import dataclasses
import json

from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.files import read_json
from jaxgen.core.files import write_text
from jaxgen.sharding import rules
from jaxgen.sharding.hosts import Hosts

FILE = 'topology.json'


@dataclasses.dataclass(frozen=True)
class Topology:
  """The hardware that a run is started on, and how the batch is divided over it.

  Attributes:
    devices: number of devices in the mesh.
    processes: number of processes.
    mesh: axis -> size.
    accumulate: micro-batches per step.
    device_rows: most rows of a micro-batch per device (or per group of devices that share a row).
    asked: ``config.train.accumulate``, from which ``device_rows`` was computed.
  """

  devices: int
  processes: int
  mesh: dict[str, int]
  accumulate: int
  device_rows: int
  asked: int


def plan(config: ConfigDict, mesh: Mesh, processes: int, workdir: str) -> Topology:
  """The topology of this start. The first start follows the config; later ones keep
  ``device_rows``.

  Args:
    config: the run's config.
    mesh: the mesh of the current devices.
    processes: number of processes of this start.
    workdir: the run's workdir; need not exist yet.
  """
  rows, asked = config.train.rows, config.train.accumulate
  ways = 1
  for axis in rules.rule('rows').axes:
    ways *= mesh.shape[axis]
  before = last(epath.Path(workdir))
  accumulate, device_rows = asked, max(rows // (ways * asked), 1)
  if before and before.asked == asked:
    device_rows = before.device_rows
    # If the rows do not divide at all, partition.row_sharding raises the error.
    accumulate = next((count for count in range(1, rows // ways + 1)
                       if rows % (ways * count) == 0 and rows // (ways * count) <= device_rows),
                      asked)
  return Topology(mesh.size, processes, dict(mesh.shape), accumulate, device_rows, asked)


def applied(config: ConfigDict, topology: Topology) -> ConfigDict:
  """A copy of the config with the topology's number of micro-batches."""
  config = copy.deepcopy(config)
  with config.unlocked():
    config.train.accumulate = topology.accumulate
  return config


def last(workdir: epath.Path) -> Topology | None:
  """The topology of the last start; None for a new run.

  Raises:
    UserError: the file is damaged.
  """
  file = workdir / FILE
  if not file.exists():
    return None
  fix = 'remove it; the micro-batches are then worked out from config.train.accumulate again'
  values = read_json(file, fix)
  if values.keys() != {field.name for field in dataclasses.fields(Topology)}:
    raise user_error(str(file), None, f'damaged (other fields than it was written with); {fix}')
  return Topology(**values)


def save(topology: Topology, workdir: epath.Path, hosts: Hosts) -> None:
  """Writes this start's topology, after all hosts have read the previous one."""
  hosts.barrier('topology')
  if hosts.index == 0:
    write_text(workdir / FILE, json.dumps(dataclasses.asdict(topology), indent=2))


def changes(before: Topology | None, now: Topology, rows: int) -> str:
  """Describes the differences from the previous start; an empty string if there are none.

  Args:
    before, now: topologies.
    rows: rows of the global batch.
  """
  if before is None:
    return ''
  parts = [_changed(name, getattr(before, name), getattr(now, name))
           for name in ('devices', 'processes')]
  parts += [_changed(f'mesh.{axis}', size, now.mesh[axis]) for axis, size in before.mesh.items()]
  parts.append(_changed('micro-batches', before.accumulate, now.accumulate))
  text = ', '.join(part for part in parts if part)
  return text and f'; {text}; a step still takes {rows} rows'


def _changed(name: str, before: int, now: int) -> str:
  return '' if before == now else f'{name} {before} -> {now}'
