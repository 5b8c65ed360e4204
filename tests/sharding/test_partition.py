"""Meshes, the rule table and where parameters and rows end up."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from ml_collections import ConfigDict

from jaxgen.core.errors import UserError
from jaxgen.sharding import partition
from jaxgen.sharding import rules
from jaxgen.sharding.mesh import make_mesh


def mesh_of(data=-1, fsdp=1, context=1, tensor=1):
  return make_mesh(ConfigDict(dict(data=data, fsdp=fsdp, context=context, tensor=tensor)))


def test_minus_one_takes_the_devices_that_are_left():
  assert dict(mesh_of(fsdp=2, tensor=2).shape) == dict(data=2, fsdp=2, context=1, tensor=2)


@pytest.mark.parametrize('sizes', [dict(data=4), dict(data=-1, fsdp=3), dict(data=16)])
def test_sizes_that_do_not_multiply_to_the_devices(sizes):
  with pytest.raises(UserError, match=r'config\.mesh.*8 devices'):
    mesh_of(**sizes)


def test_kernels_split_over_fsdp_and_tensor():
  mesh = mesh_of(data=2, fsdp=2, tensor=2)
  axes = {'a': {'kernel': ('layers', 'embed', 'heads', 'head_dim'), 'bias': ('heads', 'head_dim')},
          'square': ('embed', 'embed')}
  shapes = {'a': {'kernel': np.zeros((3, 8, 4, 5)), 'bias': np.zeros((4, 5))},
            'square': np.zeros((8, 8))}
  shardings = partition.parameter_shardings(axes, shapes, mesh)
  assert shardings['a']['kernel'].spec == P(None, ('fsdp',), ('tensor',), None)
  assert shardings['a']['bias'].spec == P(('tensor',), None)
  assert shardings['square'].spec == P(('fsdp',), None)  # an axis serves one dimension


def test_indivisible_dimension_replicates_only_where_the_table_says_so():
  mesh = mesh_of(data=1, fsdp=2, tensor=4)
  assert partition.spec(('embed', 'kv_heads'), (7, 2), mesh, 'k') == P(None, None)
  with pytest.raises(UserError, match=r'config\.mesh\.tensor = 4.*heads.*\(30\).*keep it whole: '
                     r"mesh\.rules = \(\('heads', \('tensor',\), True\),\)"):
    partition.spec(('embed', 'heads', 'head_dim'), (8, 30, 4), mesh, 'mllm/q/kernel')


def test_a_run_may_have_rules_of_its_own():
  mesh = mesh_of(data=1, fsdp=2, tensor=4)
  table = rules.with_changes((('heads', ('tensor',), True), ('embed', ('tensor',), True)))
  assert partition.spec(('embed', 'heads', 'head_dim'), (8, 30, 4), mesh, 'q', table) == P(
      ('tensor',), None, None)  # the heads do not divide, so the axis is free for the next rule
  assert partition.spec(('embed', 'heads'), (8, 32), mesh, 'q', table) == P(None, ('tensor',))
  assert rules.with_changes(()) == rules.RULES


@pytest.mark.parametrize('change, message', [
    (('colour', ('tensor',), True), "'colour': no such logical axis; known:.*'embed'"),
    (('rows', ('data',), False), "'rows': the loader feeds rows"),
    (('keys', ('tensor',), True), r"'keys': keys are gathered, \(\), or .* \('context',\)")])
def test_rules_that_cannot_be_followed(change, message):
  with pytest.raises(UserError, match=rf'config\.mesh\.rules = {message}'):
    rules.with_changes((change,))


def test_unmapped_name_is_an_error():
  with pytest.raises(UserError, match='colour'):
    partition.spec(('embed', 'colour'), (8, 8), mesh_of(), 'x')


def test_every_contract_name_has_a_rule():
  names = ('layers embed heads kv_heads head_dim mlp vocab latent cond patch queries conv_in '
           'conv_out norm rank chunks positions lora rows tokens keys act_embed').split()
  assert set(names) == set(rules.RULES)


def test_rows_split_over_data_and_fsdp_and_round_trip():
  mesh = mesh_of(data=2, fsdp=2, tensor=2)
  rows = np.arange(24, dtype=np.int32).reshape(8, 3)
  sharding = partition.row_sharding(mesh, 8)
  array = partition.to_global({'x': rows}, sharding, 8)['x']
  assert {shard.data.shape for shard in array.addressable_shards} == {(2, 3)}
  np.testing.assert_array_equal(jax.device_get(array), rows)
  assert partition.process_rows(mesh, 8) == (0, 8)


def test_rows_that_do_not_divide():
  with pytest.raises(UserError, match=r'config\.train\.rows = 12'):
    partition.row_sharding(mesh_of(), 12)
  with pytest.raises(UserError, match=r'config\.train\.rows = 8.*accumulate'):
    partition.row_sharding(mesh_of(), 8, accumulate=2)


def test_activations_are_spread_inside_the_scope_where_axes_divide():
  names = ('rows', 'tokens', 'act_embed')
  with partition.scope(mesh_of(data=2, fsdp=2, context=2)):
    spread = jax.jit(lambda x: partition.constrained(x, names))
    shards = {shape: spread(np.ones(shape, np.float32)).addressable_shards[0].data.shape
              for shape in ((8, 4, 2), (8, 3, 2), (6, 4, 2))}
  assert shards == {(8, 4, 2): (2, 2, 2), (8, 3, 2): (2, 3, 2), (6, 4, 2): (3, 2, 2)}
  plain = np.ones((8, 4, 2), np.float32)
  assert partition.constrained(plain, names) is plain
