"""What a plan says: the numbers that programs rely on, and the lever where it does not fit."""

import dataclasses
import json

import pytest

from jaxgen.planning import report
from jaxgen.planning.collectives import Collective
from jaxgen.planning.plan import Plan
from jaxgen.planning.program import Memory
from jaxgen.planning.roofline import bound
from jaxgen.planning.topology import parse

GIB = 2**30
PROMISED = {
    'fits', 'params_total', 'params_trainable', 'peak_bytes', 'hbm_bytes', 'compile_seconds',
    'flops_per_step', 'collective_bytes', 'lower_bound_seconds', 'device_hours'}
TOPOLOGY = parse('tpu:v5p:4x4x4')
SENT = (Collective('all-gather', 10, 6e9, 0.0, 3, True),
        Collective('reduce-scatter', 5, 6e9, 0.0, 3, False))


@pytest.fixture
def plan(tiny_config):
  tiny_config.train.update(rows=256, steps=3600)
  tiny_config.data.update(segments_per_row=4, visual_tokens=128)
  memory = Memory(parameters=10 * GIB, optimizer=20 * GIB, frozen=2 * GIB, batches=GIB,
                  temporary=17 * GIB, peak=50 * GIB, host=0.0)
  flops = 64 * 459e12 * 0.5  # half a second
  return Plan(
      topology=TOPOLOGY, config=tiny_config, mesh=dict(data=8, fsdp=8, context=1, tensor=1),
      parameters={'denoiser': dict(trained=9, frozen=0), 'mllm': dict(trained=0, frozen=5)},
      memory=memory, compile_seconds=60.0, core_seconds=110.0,
      flops={'trained': dict(dense=0.6 * flops, attention=0.1 * flops),
             'frozen': dict(dense=0.1 * flops, attention=0.0)},
      executed_flops=flops, collectives=SENT, bound=bound(flops, memory, SENT, TOPOLOGY),
      images=512)


def too_large(plan, **changes):
  memory = dataclasses.replace(plan.memory, **{
      name: value * GIB for name, value in changes.items()})
  return dataclasses.replace(plan, memory=memory)


def test_collectives_that_nothing_hides_add_to_compute(plan):
  assert plan.bound.compute == pytest.approx(0.5)
  assert plan.bound.waiting == pytest.approx(5 * 6e9 / 600e9)
  assert plan.bound.links == pytest.approx(15 * 6e9 / 600e9)
  assert plan.bound.seconds == pytest.approx(0.55)
  assert plan.bound.beyond_compute == pytest.approx(0.1)
  assert plan.bound.bounded_by == 'compute and waiting for collectives'
  assert plan.device_hours == pytest.approx(0.55 * 64)


def test_json_has_every_promised_key(plan):
  numbers = json.loads(json.dumps(report.to_json(plan)))
  assert PROMISED <= numbers.keys() and not any(numbers[key] is None for key in PROMISED)
  assert (numbers['params_total'], numbers['params_trainable']) == (14, 9)
  assert numbers['collective_bytes'] == 90e9
  assert numbers['flops_per_step'] == pytest.approx(0.8 * 64 * 459e12 * 0.5)
  assert numbers['images_per_second'] == pytest.approx(512 / 0.55)


def test_text_says_the_same(plan):
  text = report.to_text(plan)
  for part in ('64 x TPU v5p', 'mesh data=8 fsdp=8', '50.00 GiB of 95.00 GiB: 47% free',
               'repeats 25% of it', 'all-gather', '0.5500, by compute and waiting', '10.0% beyond',
               'compiled in 60 s', '930.9 images/s; all 3,600 steps 35 device-hours'):
    assert part in text, part


def test_a_plan_that_does_not_fit_names_the_lever(plan):
  assert plan.fits
  activations = too_large(plan, temporary=100, peak=133)
  assert not activations.fits
  # 4 rows of a device take 100 GiB, so 2 of them fit into the 52 GiB that 90 % leave.
  message = report.shortfall(activations)
  assert '133.00 GiB of 95.00 GiB' in message and '38.00 GiB too much' in message
  assert message.endswith('set train.accumulate to 2')
  state = too_large(plan, optimizer=90, peak=120)
  assert 'raise mesh.fsdp from 8 up to 64' in report.shortfall(state)
  plan.config.train.accumulate = 4
  assert 'set remat to full' in report.shortfall(activations)
  # Parameters may lie over several nodes, but not over the devices of another axis.
  spread = dict(mesh=dict(data=4, fsdp=8, context=1, tensor=2), topology=parse('gpu:h800:8x8'))
  assert 'raise mesh.fsdp from 8 up to 32' in report.shortfall(dataclasses.replace(state, **spread))
  whole = dataclasses.replace(state, mesh=dict(data=1, fsdp=64, context=1, tensor=1))
  assert report.shortfall(whole).endswith('set optimizer.memory to host, or take more devices')
  plan.config.optimizer.memory = 'host'
  assert report.shortfall(whole).endswith('GiB: take more devices')


def test_without_a_compiled_program_there_is_no_bound(plan):
  failed = dataclasses.replace(plan, bound=None, collectives=())
  numbers = report.to_json(failed)
  assert numbers['lower_bound_seconds'] is None and numbers['collective_bytes'] is None
  assert 'lower bound' not in report.to_text(failed)
