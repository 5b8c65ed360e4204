"""The same run on other devices: the batch stays, only its division into micro-batches moves.

``topology.json`` in the workdir says what a run was last started on. Data cursors belong to the
global rows and checkpoints to no device, so all that must be decided anew is how many rows a
device takes at once: never more than it did at first, as its memory need not hold more.
"""

import copy
import dataclasses
import json

from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxgen.sharding import rules
from jaxgen.sharding.hosts import Hosts
from jaxgen.core.files import write_text

FILE = 'topology.json'


@dataclasses.dataclass(frozen=True)
class Topology:
  """What a run is carried out on.

  Attributes:
    devices: of the mesh.
    processes: that feed it.
    mesh: axis -> size.
    accumulate: micro-batches of a step.
    device_rows: rows of a micro-batch that a device (or those that share a row) takes at the most.
    asked: ``config.train.accumulate``, which ``device_rows`` comes from.
  """

  devices: int
  processes: int
  mesh: dict[str, int]
  accumulate: int
  device_rows: int
  asked: int


def plan(config: ConfigDict, mesh: Mesh, processes: int, workdir: str) -> Topology:
  """The topology of this start: of the first one as the config says, later as memory allows.

  Args:
    config: of the run.
    mesh: of the present devices.
    processes: of the present run.
    workdir: of the run; need not exist yet.
  """
  rows, asked = config.train.rows, config.train.accumulate
  ways = 1
  for axis in rules.rule('rows').axes:
    ways *= mesh.shape[axis]
  before = last(epath.Path(workdir))
  accumulate, device_rows = asked, max(rows // (ways * asked), 1)
  if before and before.asked == asked:
    device_rows = before.device_rows
    # Where the rows do not divide at all, the check of the batch's sharding says so.
    accumulate = next((count for count in range(1, rows // ways + 1)
                       if rows % (ways * count) == 0 and rows // (ways * count) <= device_rows),
                      asked)
  return Topology(mesh.size, processes, dict(mesh.shape), accumulate, device_rows, asked)


def applied(config: ConfigDict, topology: Topology) -> ConfigDict:
  """The config with the micro-batches of the topology."""
  config = copy.deepcopy(config)
  with config.unlocked():
    config.train.accumulate = topology.accumulate
  return config


def last(workdir: epath.Path) -> Topology | None:
  """What the run was last started on; None for a new one."""
  file = workdir / FILE
  return Topology(**json.loads(file.read_text())) if file.exists() else None


def save(topology: Topology, workdir: epath.Path, hosts: Hosts) -> None:
  """Notes what the run is now carried out on, once all hosts have read the note before."""
  hosts.barrier('topology')
  if hosts.index == 0:
    write_text(workdir / FILE, json.dumps(dataclasses.asdict(topology), indent=2))


def changes(before: Topology | None, now: Topology, rows: int) -> str:
  """What differs from the start before, in words; empty where nothing does.

  Args:
    before, now: topologies.
    rows: of the global batch.
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
