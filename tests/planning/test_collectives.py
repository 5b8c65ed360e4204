"""Programs read back: loops, groups and bytes, from CPU, TPU and GPU."""

import types
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from jaxgen.planning import hlo
from jaxgen.planning.collectives import by_kind
from jaxgen.planning.collectives import collectives_of
from jaxgen.planning.topology import parse

LAYERS, WIDTH, HIDDEN = 5, 16, 32
# The parts of a TPU program that matter: a loop whose counter starts at 1 as its first turn was
# peeled off, an unrolled one, the fusion that stands for a reduce-scatter, the pieces of an
# asynchronous gather, and what is handed to another slice.
TPU = '''HloModule jit_step, is_scheduled=true, num_partitions=4

%add (x: bf16[], y: bf16[]) -> bf16[] {
  %x = bf16[] parameter(0)
  %y = bf16[] parameter(1)
  ROOT %add.1 = bf16[]{:T(256)} add(%x, %y)
}

%all-reduce-scatter.2 (input: bf16[8,128]) -> bf16[2,128] {
  %input = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %all-reduce.20 = bf16[8,128]{1,0:T(8,128)(2,1)} all-reduce(%input), channel_id=9, replica_groups={{0,1,2,3}}, use_global_device_ids=true, to_apply=%add
  ROOT %slice = bf16[2,128]{1,0} slice(%all-reduce.20), slice={[0:2], [0:128]}
}

%async_collective_start (p: bf16[2,128]) -> bf16[8,128] {
  %p = bf16[2,128]{1,0} parameter(0)
  ROOT %all-gather.1 = bf16[8,128]{1,0} all-gather(%p), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}, use_global_device_ids=true
}

%async_collective_fusion (p.1: bf16[2,128]) -> bf16[8,128] {
  %p.1 = bf16[2,128]{1,0} parameter(0)
  ROOT %all-gather.2 = bf16[8,128]{1,0} all-gather(%p.1), channel_id=3, replica_groups=[1,4]<=[4], dimensions={0}, use_global_device_ids=true
}

%body (carry: (s32[], bf16[8,128])) -> (s32[], bf16[8,128]) {
  %carry = (s32[]{:T(128)}, bf16[8,128]{1,0:T(8,128)(2,1)S(1)}) parameter(0)
  %counter = s32[]{:T(128)} get-tuple-element(%carry), index=0
  %values = bf16[8,128]{1,0} get-tuple-element(%carry), index=1
  %one = s32[]{:T(128)} constant(1)
  %next = s32[]{:T(128)} add(%counter, %one)
  %scattered = bf16[2,128]{1,0} fusion(%values), kind=kCustom, calls=%all-reduce-scatter.2, metadata={op_name="jit(step)/while/body"}
  %started = bf16[8,128]{1,0} fusion(%scattered), kind=kCustom, calls=%async_collective_start
  %done = bf16[8,128]{1,0} fusion(%scattered), kind=kCustom, calls=%async_collective_fusion
  ROOT %result = (s32[]{:T(128)}, /*index=1*/bf16[8,128]{1,0}) tuple(%next, %done)
}

%condition (carry.1: (s32[], bf16[8,128])) -> pred[] {
  %carry.1 = (s32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %turns = s32[]{:T(128)} constant(12)
  %counter.1 = s32[]{:T(128)} get-tuple-element(%carry.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%counter.1, %turns), direction=LT
}

ENTRY %main (argument: bf16[8,128]) -> bf16[8,128] {
  %argument = bf16[8,128]{1,0} parameter(0)
  %start = s32[]{:T(128)} constant(1)
  %copied = s32[]{:T(128)S(6)} copy(%start)
  %begin = (s32[]{:T(128)}, bf16[8,128]{1,0}) tuple(%copied, %argument)
  %loop = (s32[]{:T(128)}, bf16[8,128]{1,0}) while(%begin), condition=%condition, body=%body
  %token = token[] after-all()
  %send.1 = (bf16[8,128]{1,0}, u32[], token[]) send(%argument, %token), channel_id=2, is_host_transfer=true, frontend_attributes={_xla_megascale_reduce_operation="SUM",_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  ROOT %out = bf16[8,128]{1,0} get-tuple-element(%loop), index=1
}
'''
GPU = '''HloModule jit_step, is_scheduled=true, num_partitions=16

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%x, %y)
}

ENTRY %main (argument: f32[64]) -> f32[64] {
  %argument = f32[64]{0} parameter(0)
  %ar = f32[64]{0} all-reduce-start(%argument), channel_id=1, replica_groups=[1,16]<=[16], use_global_device_ids=true, to_apply=%add
  %ar-done = f32[64]{0} all-reduce-done(%ar)
  %ag = (f32[64]{0}, f32[128]{0}) all-gather-start(%ar-done), channel_id=2, replica_groups=[8,2]<=[2,8]T(1,0), dimensions={0}, use_global_device_ids=true
  %ag-done = f32[128]{0} all-gather-done(%ag)
  %rs = ((f32[128]{0}, f32[64]{0}), (f32[16]{0}, f32[8]{0})) reduce-scatter-start(%ag-done, %ar-done), channel_id=3, replica_groups=mesh['axis_0'=8,'axis_1'=2], device_ids=([2,8]T(1,0)) {'axis_0'}, use_global_device_ids=true, dimensions={0}, to_apply=%add
  %rs-done = (f32[16]{0}, f32[8]{0}) reduce-scatter-done(%rs)
  %part = ((f32[64]{0}), (f32[128]{0})) all-gather-start(%ar-done), channel_id=4, replica_groups=mesh['axis_0'=16] {'axis_0':(4)2}, dimensions={0}, use_global_device_ids=true
  ROOT %part-done = f32[128]{0} all-gather-done(%part)
}
'''
# A GPU program's loop that lost its first and its last turn, and the count that others carry.
PEELED = '''HloModule jit_step, is_scheduled=true

%fused_add (p: s32[]) -> s32[] {
  %p = s32[] parameter(0)
  %two = s32[] constant(2)
  ROOT %sum = s32[] add(%p, %two)
}

%body (carry: (s32[], f32[8])) -> (s32[], f32[8]) {
  %carry = (s32[], f32[8]{0}) parameter(0)
  %counter = s32[] get-tuple-element(%carry), index=0
  %values = f32[8]{0} get-tuple-element(%carry), index=1
  %next = s32[] fusion(%counter), kind=kLoop, calls=%fused_add
  ROOT %result = (s32[], f32[8]{0}) tuple(%next, %values)
}

%fused_compare (p.1: s32[]) -> pred[] {
  %p.1 = s32[] parameter(0)
  %turns = s32[] constant(15)
  ROOT %less = pred[] compare(%p.1, %turns), direction=LT
}

%condition (carry.1: (s32[], f32[8])) -> pred[] {
  %carry.1 = (s32[], f32[8]{0}) parameter(0)
  %counter.1 = s32[] get-tuple-element(%carry.1), index=0
  ROOT %again = pred[] fusion(%counter.1), kind=kLoop, calls=%fused_compare
}

ENTRY %main (argument: f32[8]) -> f32[8] {
  %argument = f32[8]{0} parameter(0)
  %start = s32[] constant(1)
  %copied = s32[] copy(%start)
  %begin = (s32[], f32[8]{0}) tuple(%copied, %argument)
  %loop = (s32[], f32[8]{0}) while(%begin), condition=%condition, body=%body, backend_config={"known_induction_variable":{"tuple_index":"0"}}
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
'''


def chips(topology):
  """Stand-ins with what the planner reads of a device."""
  return [types.SimpleNamespace(
      coords=np.unravel_index(index % topology.domain, topology.shape), slice_index=0,
      process_index=index // topology.domain) for index in range(topology.size)]


@pytest.mark.parametrize('text, turns', [(TPU, 11), (PEELED, 7)])  # 1, 2, ... 11; 1, 3, ... 13
def test_loops_without_a_count_turn_as_often_as_they_will(text, turns):
  module = hlo.Module(text)
  assert module.entry == 'main'
  assert module.trips('main', module.computations['main']['loop']) == turns


def test_a_loop_of_unknown_length_around_collectives_is_told():
  topology = parse('tpu:v5p:2x2x1*2')
  with warnings.catch_warnings(action='error'):
    collectives_of(TPU, chips(topology), topology)
  endless = TPU.replace('direction=LT', 'direction=NE')
  with pytest.warns(UserWarning, match='does not say how often it turns in loop'):
    found = collectives_of(endless, chips(topology), topology)
  assert {each.times for each in found} == {1}


def test_bytes_on_ici_and_between_slices():
  topology = parse('tpu:v5p:2x2x1*2')
  found = collectives_of(TPU, chips(topology), topology)
  size = 8 * 128 * 2
  assert dict(by_kind(found)) == {
      'reduce-scatter': dict(runs=11, link_bytes=11 * size * 3 / 4, network_bytes=0),
      'all-gather': dict(runs=11, link_bytes=11 * size * 3 / 4, network_bytes=0),
      'all-reduce': dict(runs=1, link_bytes=0, network_bytes=size),
  }
  overlaps = {each.kind: each.overlaps for each in found}
  assert overlaps == {'reduce-scatter': False, 'all-gather': True, 'all-reduce': True}
  gather = next(each for each in found if each.kind == 'all-gather')
  # The group of four spans two dimensions of the torus, 200 GB/s each.
  assert gather.seconds(topology) == (pytest.approx(11 * size * .75 / 400e9), 0)


def test_devices_of_a_node_share_what_comes_over_the_network():
  topology = parse('gpu:h100:2x8')
  reduce, gather, scatter, part = collectives_of(GPU, chips(topology), topology)
  assert (reduce.kind, reduce.overlaps) == ('all-reduce', True)
  assert reduce.link_bytes == 2 * 256 * 7 / 8 and reduce.network_bytes == 2 * 256 / 2 / 8
  # Device 0 gathers with device 8, its peer of the other node.
  assert (gather.kind, gather.link_bytes, gather.network_bytes) == ('all-gather', 0, 512 / 2)
  # Two arrays in one, over the eight of a node, named by an axis.
  assert (scatter.kind, scatter.network_bytes) == ('reduce-scatter', 0)
  assert scatter.link_bytes == pytest.approx((512 + 256) * 7 / 8)
  # A part of an axis: of 16 devices 4 x 2 x 2, the middle two are 0 and 2.
  assert (part.link_bytes, part.network_bytes) == (pytest.approx(512 / 2), 0)


def test_bytes_of_a_compiled_scan_are_those_of_its_sharding():
  mesh = Mesh(np.asarray(jax.devices()), ('fsdp',))
  weights = jax.ShapeDtypeStruct((LAYERS, WIDTH, HIDDEN), jnp.float32,
                                 sharding=NamedSharding(mesh, P(None, 'fsdp')))
  rows = jax.ShapeDtypeStruct((8, WIDTH), jnp.float32, sharding=NamedSharding(mesh, P('fsdp')))

  def forward(weights, rows):
    def layer(rows, weight):
      weight = jax.lax.with_sharding_constraint(weight, NamedSharding(mesh, P()))
      return jnp.tanh(rows @ weight) @ weight.T, None
    return jax.lax.scan(layer, rows, weights)[0]

  text = jax.jit(forward, out_shardings=rows.sharding).lower(weights, rows).compile().as_text()
  topology = parse('gpu:h100:1x8')
  table = dict(by_kind(collectives_of(text, chips(topology), topology)))
  assert table == {'all-gather': dict(
      runs=LAYERS, link_bytes=LAYERS * WIDTH * HIDDEN * 4 * 7 / 8, network_bytes=0)}
