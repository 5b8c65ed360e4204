"""Formats a plan as text and as JSON."""

import math
from collections.abc import Iterator
from typing import Any

from jaxgen.planning.collectives import by_kind
from jaxgen.planning.plan import Plan

GIB = 2**30
COMFORTABLE = 0.9  # suggestions fill at most this share of the memory


def to_json(plan: Plan) -> dict[str, Any]:
  """The numbers behind ``to_text``; None for unknown ones."""
  memory, bound = plan.memory, plan.bound
  parameters = plan.parameters.values()
  return dict(
      fits=plan.fits, topology=plan.topology.name, devices=plan.topology.size, mesh=plan.mesh,
      rows=plan.config.train.rows, accumulate=plan.config.train.accumulate,
      params_total=sum(sum(group.values()) for group in parameters),
      params_trainable=sum(group['trained'] for group in parameters),
      params=plan.parameters,
      peak_bytes=memory.peak, hbm_bytes=plan.topology.chip.hbm_bytes, headroom=plan.headroom,
      parameter_bytes=memory.parameters, optimizer_bytes=memory.optimizer,
      frozen_bytes=memory.frozen, batch_bytes=memory.batches, temporary_bytes=memory.temporary,
      host_bytes=memory.host,
      compile_seconds=plan.compile_seconds, compile_core_seconds=plan.core_seconds,
      flops_per_step=plan.model_flops, flops=plan.flops,
      executed_flops=plan.executed_flops,
      collective_bytes=sum(each.times * (each.link_bytes + each.network_bytes)
                           for each in plan.collectives) if bound else None,
      collectives=dict(by_kind(plan.collectives)) if bound else None,
      compute_seconds=bound and bound.compute, memory_seconds=bound and bound.memory,
      link_seconds=bound and bound.links, network_seconds=bound and bound.network,
      waiting_seconds=bound and bound.waiting, lower_bound_seconds=bound and bound.seconds,
      bounded_by=bound and bound.bounded_by, beyond_compute=bound and bound.beyond_compute,
      images_per_second=bound and plan.images_per_second, steps=plan.config.train.steps,
      device_hours=bound and plan.device_hours)


def to_text(plan: Plan) -> str:
  """The whole plan as text, about one screen."""
  lines = [*_setting(plan), *_parameters(plan), *_memory(plan), *_flops(plan)]
  if plan.bound:
    lines += [*_collectives(plan), *_bound(plan)]
  return '\n'.join(lines)


def shortfall(plan: Plan) -> str:
  """For a plan that does not fit: the excess memory and the setting to change."""
  memory, hbm = plan.memory, plan.topology.chip.hbm_bytes
  return (f'the step needs {_gib(memory.peak)} of {_gib(hbm)} on each device, '
          f'{_gib(memory.peak - hbm)} too much; {_lever(plan)}')


def _lever(plan: Plan) -> str:
  """The cheapest change that helps, depending on what fills the memory."""
  memory, config, mesh = plan.memory, plan.config, plan.mesh
  room = COMFORTABLE * plan.topology.chip.hbm_bytes
  resident = memory.peak - memory.temporary
  share = config.train.rows // (config.train.accumulate * mesh['data'] * mesh['fsdp'])
  widest = plan.topology.size // (plan.topology.slices * mesh['context'] * mesh['tensor'])
  if resident > room:
    lever = 'take more devices'
    if widest > mesh['fsdp']:
      lever = f'raise mesh.fsdp from {mesh["fsdp"]} up to {widest}'
    elif config.optimizer.memory == 'device':
      lever = f'set optimizer.memory to host, or {lever}'
    return f'parameters and optimizer alone take {_gib(resident)}: {lever}'
  if share > 1:
    fewer = max(1, int(share * (room - resident) / memory.temporary))
    pieces = math.ceil(share / next(n for n in range(fewer, 0, -1) if share % n == 0))
    return (f'activations of {share} rows take {_gib(memory.temporary)}: set train.accumulate to '
            f'{config.train.accumulate * pieces}')
  return (f'activations of a single row take {_gib(memory.temporary)}: set remat to full, then '
          'raise mesh.context or mesh.tensor')


def _setting(plan: Plan) -> Iterator[str]:
  axes = ' '.join(f'{axis}={size}' for axis, size in plan.mesh.items() if size > 1)
  config = plan.config.train
  yield (f'{plan.topology.name}: {plan.topology.size} x {plan.topology.chip.description}, '
         f'mesh {axes or "of one device"}, {config.rows} rows in {config.accumulate} pieces')
  yield f'compiled in {plan.compile_seconds:.0f} s, {plan.core_seconds:.0f} s of cores'


def _parameters(plan: Plan) -> Iterator[str]:
  yield ''
  yield f'{"parameters":<28}{"trained":>14}{"frozen":>14}'
  for group, counts in plan.parameters.items():
    yield f'  {group:<26}{_count(counts["trained"]):>14}{_count(counts["frozen"]):>14}'


def _memory(plan: Plan) -> Iterator[str]:
  memory, hbm = plan.memory, plan.topology.chip.hbm_bytes
  yield ''
  yield 'memory of a device'
  for name, value in (('trained parameters, EMA', memory.parameters),
                      ('optimizer', memory.optimizer), ('frozen parameters', memory.frozen),
                      ('two batches', memory.batches),
                      ('activations and gradients', memory.temporary)):
    yield f'  {name:<26}{_gib(value):>14}'
  if memory.host:
    yield f'  {"in the memory of the host":<26}{_gib(memory.host):>14}'
  verdict = f'{plan.headroom:.0%} free' if plan.fits else 'DOES NOT FIT'
  yield f'  {"peak":<26}{_gib(memory.peak):>14} of {_gib(hbm)}: {verdict}'


def _flops(plan: Plan) -> Iterator[str]:
  yield ''
  yield f'{"PFLOPs of a step":<28}{"dense":>14}{"attention":>14}'
  for name, kinds in plan.flops.items():
    yield f'  {name:<26}{kinds["dense"] / 1e15:>14.3f}{kinds["attention"] / 1e15:>14.3f}'
  repeated = plan.executed_flops / plan.model_flops - 1
  yield (f'  {"sum":<26}{plan.model_flops / 1e15:>14.3f}; rematerialisation repeats '
         f'{repeated:.0%} of it')


def _collectives(plan: Plan) -> Iterator[str]:
  link, network = ('ICI', 'DCN') if plan.topology.is_tpu else ('NVLink', 'InfiniBand')
  yield ''
  yield f'{"sent by a device in a step":<28}{"runs":>8}{link:>14}{network:>14}'
  for kind, row in by_kind(plan.collectives):
    yield (f'  {kind:<26}{row["runs"]:>8}{_gib(row["link_bytes"]):>14}'
           f'{_gib(row["network_bytes"]):>14}')


def _bound(plan: Plan) -> Iterator[str]:
  bound = plan.bound
  yield ''
  yield 'seconds of a step, each unit at its peak'
  for name, value in (('compute', bound.compute), ('memory bandwidth', bound.memory),
                      ('links', bound.links), ('network', bound.network),
                      ('waiting for collectives', bound.waiting)):
    yield f'  {name:<26}{value:>14.4f}'
  yield (f'  {"lower bound":<26}{bound.seconds:>14.4f}, by {bound.bounded_by}; '
         f'{bound.beyond_compute:.1%} beyond compute')
  yield (f'{plan.images_per_second:,.1f} images/s; all {plan.config.train.steps:,} steps '
         f'{plan.device_hours:,.0f} device-hours, at that bound')


def _gib(size: float) -> str:
  return f'{size / GIB:.2f} GiB'


def _count(number: int) -> str:
  return f'{number / 1e6:,.1f} M'
