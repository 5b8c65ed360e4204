"""Collectives of a compiled step: how often each runs, and the bytes it sends over each link."""

import dataclasses
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from jaxgen.planning import hlo
from jaxgen.planning.topology import Topology

KINDS = ('all-gather', 'all-reduce', 'reduce-scatter', 'all-to-all', 'collective-permute',
         'ragged-all-to-all', 'collective-broadcast')


@dataclasses.dataclass(frozen=True)
class Collective:
  """One collective of a program.

  Attributes:
    kind: ``all-gather``, ``all-reduce``, ``reduce-scatter``, ...
    times: number of runs per step.
    link_bytes: bytes that a device sends over ICI or NVLink per run.
    network_bytes: bytes that a device sends over DCN or InfiniBand per run.
    dimensions: number of torus dimensions that its group spans; their links work in parallel.
    overlaps: whether it is asynchronous (start and done are separate), so computation can overlap.
  """

  kind: str
  times: int
  link_bytes: float
  network_bytes: float
  dimensions: int
  overlaps: bool

  def seconds(self, topology: Topology) -> tuple[float, float]:
    """Lower bounds on seconds per step, ``(on the links, on the network)``."""
    link = self.link_bytes / (topology.chip.link_bandwidth * max(self.dimensions, 1))
    return self.times * link, self.times * self.network_bytes / topology.chip.network_bandwidth


def collectives_of(text: str, devices: Sequence[Any], topology: Topology) -> list[Collective]:
  """All collectives that one device takes part in during a step.

  Warns about loops that contain collectives and have an unknown trip count.

  Args:
    text: HLO text of the compiled program.
    devices: the devices in mesh order.
    topology: the hardware; tells which devices share links and which need the network.
  """
  module = hlo.Module(text)
  if loops := _uncounted(module):
    warnings.warn(f'more is sent than counted here: the program does not say how often it turns in '
                  f'{", ".join(loops)}, which counts once', stacklevel=2)
  found, seen = [], set()
  for computation, line, times in module.walk(module.entry):
    kind = line.opcode.removesuffix('-start')
    if kind in KINDS and not line.opcode.endswith('-done'):
      # Every piece of a fused asynchronous collective repeats it, with the same channel id.
      key = (line.attribute('channel_id'), times, kind)
      if _is_piece(computation):
        if key in seen:
          continue
        seen.add(key)
      found.append(_collective(kind, line, computation, times, devices, topology))
    elif line.opcode == 'send' and '_xla_megascale_target' in line.attributes:
      found.append(_between_slices(line, times, topology))
  return [collective for collective in found
          if collective.link_bytes or collective.network_bytes]


def _uncounted(module: hlo.Module) -> list[str]:
  return [line.name for computation, line, _ in module.walk(module.entry)
          if line.opcode == 'while' and module.trips(computation, line) is None
          and any(inner.opcode.removesuffix('-start') in KINDS
                  for _, inner, _ in module.walk(line.attribute('body')))]


def _is_piece(computation: str) -> bool:
  return 'async_collective' in computation or 'async-collective' in computation


def _collective(kind: str, line: hlo.Instruction, computation: str, times: int,
                devices: Sequence[Any], topology: Topology) -> Collective:
  overlaps = line.opcode.endswith('-start') or 'async' in computation
  if kind == 'collective-permute':
    return _permute(line, times, overlaps, devices, topology)
  group = _group(line, len(devices))
  whole = hlo.size_of(line.type)
  if line.opcode in ('all-gather-start', 'reduce-scatter-start'):
    whole *= len(group) / (len(group) + 1)  # the type lists both inputs and outputs
  elif kind == 'reduce-scatter':
    whole *= len(group)
  elif kind == 'all-reduce' and computation.startswith('all-reduce-scatter'):
    kind = 'reduce-scatter'  # on TPUs, a fusion of an all-reduce with the slice that is kept
  members = [devices[index] for index in group]
  nodes = len({node_of(device, topology) for device in members})
  inside = len(members) // nodes
  factor = 2 if kind == 'all-reduce' else 1
  return Collective(
      kind, times, link_bytes=factor * whole * (inside - 1) / inside,
      # The devices of a node divide the traffic with other nodes among themselves.
      network_bytes=factor * whole * (nodes - 1) / nodes / inside,
      dimensions=_dimensions(members, topology), overlaps=overlaps)


def _permute(line: hlo.Instruction, times: int, overlaps: bool, devices: Sequence[Any],
             topology: Topology) -> Collective:
  size = hlo.arrays_of(line.type)[0]
  pairs = re.findall(r'\{(\d+),(\d+)\}', line.attributes)
  crosses = any(node_of(devices[int(a)], topology) != node_of(devices[int(b)], topology)
                for a, b in pairs)
  return Collective('collective-permute', times, 0.0 if crosses else size,
                    size if crosses else 0.0, 1, overlaps)


def _between_slices(line: hlo.Instruction, times: int, topology: Topology) -> Collective:
  """A transfer between TPU slices, which goes through the hosts as a ``send``."""
  kind = re.search(r'_xla_megascale_transfer_type="(\w+)"', line.attributes)[1]
  kind = kind.lower().replace('_', '-')
  size, share = hlo.arrays_of(line.type)[0], (topology.slices - 1) / topology.slices
  return Collective(kind, times, 0.0, size * share * (2 if kind == 'all-reduce' else 1), 0, True)


def node_of(device: Any, topology: Topology) -> int:
  """Index of the slice (TPU) or node (GPU) of a device."""
  if topology.is_tpu:
    return getattr(device, 'slice_index', None) or 0
  return device.process_index


def _dimensions(members: Sequence[Any], topology: Topology) -> int:
  if not topology.is_tpu:
    return 1
  places = np.asarray([device.coords for device in members])
  return int((places != places[0]).any(axis=0).sum())


def _group(line: hlo.Instruction, count: int) -> Sequence[int]:
  """The first replica group; all groups of a collective have the same size."""
  text = line.attribute('replica_groups')
  if text.startswith('mesh['):
    return _mesh_group(line.attributes)
  iota = re.search(r'replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?',
                   line.attributes)
  if iota:
    return _iota(iota[3], iota[4]).reshape(int(iota[1]), int(iota[2]))[0].tolist()
  first = re.search(r'\{(\d+(?:,\d+)*)\}', text)
  return [int(index) for index in first[1].split(',')] if first else range(count)


def _mesh_group(attributes: str) -> Sequence[int]:
  """``mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}``: the devices along ``a`` from the first.

  A group may use part of an axis: ``'a':(1)2`` is the factor of 2 after a factor of 1.
  """
  mesh, ids, chosen = re.search(
      r'replica_groups=mesh\[([^\]]*)\](?:, device_ids=\((.*?\)?)\))? \{([^}]*)\}',
      attributes).groups()
  names, sizes = zip(*re.findall(r"'([^']+)'=(\d+)", mesh))
  sizes = [int(size) for size in sizes]
  order = re.match(r'\[([\d,]+)\](?:T\(([\d,]+)\))?', ids) if ids else None
  devices = _iota(order[1], order[2]) if order else np.arange(np.prod(sizes))
  index = np.zeros(len(sizes), int)
  members = [index]
  for name, before, part in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", chosen):
    axis = names.index(name)
    count = int(part) if part else sizes[axis]
    stride = sizes[axis] // (int(before or 1) * count)
    step = np.eye(len(sizes), dtype=int)[axis] * stride
    members = [member + turn * step for member in members for turn in range(count)]
  return [int(devices.reshape(sizes)[tuple(member)]) for member in members]


def _iota(shape: str, order: str | None) -> np.ndarray:
  """``arange`` reshaped to a shape, then transposed."""
  sizes = [int(size) for size in shape.split(',')]
  ids = np.arange(np.prod(sizes)).reshape(sizes)
  return ids.transpose([int(axis) for axis in order.split(',')]) if order else ids


def by_kind(collectives: Sequence[Collective]) -> Iterator[tuple[str, dict[str, float]]]:
  """``(kind, {runs, link_bytes, network_bytes})`` per step, sorted by bytes, largest first."""
  table: dict[str, dict[str, float]] = {}
  for each in collectives:
    row = table.setdefault(each.kind, dict(runs=0, link_bytes=0.0, network_bytes=0.0))
    row['runs'] += each.times
    row['link_bytes'] += each.times * each.link_bytes
    row['network_bytes'] += each.times * each.network_bytes
  yield from sorted(table.items(), key=lambda item: -sum(item[1].values()))
