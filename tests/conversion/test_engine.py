"""The engine reads any table in both directions and lists everything that does not fit."""

import numpy as np
import pytest

from jaxgen.conversion.engine import Constant
from jaxgen.conversion.engine import Rule
from jaxgen.conversion.engine import from_torch
from jaxgen.conversion.engine import names_and_shapes
from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.transforms import CONV
from jaxgen.conversion.transforms import HEADS_BIAS
from jaxgen.conversion.transforms import HEADS_IN
from jaxgen.conversion.transforms import HEADS_OUT
from jaxgen.conversion.transforms import LINEAR
from jaxgen.conversion.transforms import PatchKernel
from jaxgen.conversion.transforms import Squeeze
from jaxgen.core import trees
from jaxgen.core.errors import UserError

RULES = (
    Rule('in/kernel', 'proj.weight', LINEAR),
    Rule('patch', 'patch.weight', (PatchKernel(),)),
    Rule('cls', 'cls', (Squeeze((0, 1)),)),
    Rule('conv_{i}/kernel', 'down.{i}.conv.weight', CONV),
    Rule('stack_{i}/scale', 'stages.{i}.layers.{j}.scale'),
    Rule('blocks/q/kernel', 'blocks.{i}.q.weight', HEADS_OUT),
    Rule('blocks/q/bias', 'blocks.{i}.q.bias', HEADS_BIAS),
    Rule('blocks/out/kernel', 'blocks.{i}.out.weight', HEADS_IN),
    Rule('blocks/kv/kernel', ('blocks.{i}.k.weight', 'blocks.{i}.v.weight'), LINEAR, fuse=1),
    Rule('blocks/mix/kernel', ('blocks.{i}.a.weight', 'blocks.{i}.b.weight'), LINEAR, fuse=1,
         parts=(1, 4)),
    Rule('blocks/up/kernel', 'blocks.{i}.fused.weight', HEADS_OUT, joined=True),
    Rule('blocks/gate/kernel', 'blocks.{i}.fused.weight', LINEAR, joined=True),
    Rule('last/scale', 'blocks.{i}.last.scale', after='blocks/q/kernel'),
    Rule('optional/kernel', 'optional.weight', LINEAR),
    Constant('pooled.weight', (('in/kernel', 1), 3), unless='optional/kernel'),
)
SHAPES = {  # ours
    'in/kernel': (4, 6), 'patch': (12, 5), 'cls': (6,),
    'conv_0/kernel': (3, 2, 4, 5), 'conv_1/kernel': (1, 1, 5, 6),
    'stack_0/scale': (2, 3), 'stack_1/scale': (1, 3),
    'blocks/q/kernel': (2, 6, 3, 4), 'blocks/q/bias': (2, 3, 4), 'blocks/out/kernel': (2, 3, 4, 6),
    'blocks/kv/kernel': (2, 6, 8), 'blocks/mix/kernel': (2, 6, 10),
    'blocks/up/kernel': (2, 6, 3, 2), 'blocks/gate/kernel': (2, 6, 5),
    'last/scale': (6,),
}


class Leaf:
  """A parameter of which only the shape is known."""

  def __init__(self, shape):
    self.shape = shape


def params():
  rng = np.random.default_rng(0)
  return trees.unflatten({path: rng.normal(size=shape).astype(np.float32)
                          for path, shape in SHAPES.items()})


def shapes():
  return trees.unflatten({path: Leaf(shape) for path, shape in SHAPES.items()})


def test_layouts_are_those_of_torch():
  ours, theirs = params(), to_torch(RULES, params())
  flat = trees.flatten(ours)
  assert np.array_equal(theirs['proj.weight'], flat['in/kernel'].T)
  assert theirs['cls'].shape == (1, 1, 6)
  assert np.array_equal(theirs['down.0.conv.weight'], flat['conv_0/kernel'].transpose(3, 2, 0, 1))
  assert np.array_equal(theirs['stages.0.layers.1.scale'], flat['stack_0/scale'][1])
  x = np.random.default_rng(1).normal(size=6).astype(np.float32)
  q = np.einsum('D,DNH->NH', x, flat['blocks/q/kernel'][1]) + flat['blocks/q/bias'][1]
  np.testing.assert_allclose(
      theirs['blocks.1.q.weight'] @ x + theirs['blocks.1.q.bias'], q.reshape(-1), rtol=1e-5)
  np.testing.assert_allclose(
      theirs['blocks.1.out.weight'] @ q.reshape(-1),
      np.einsum('NH,NHD->D', q, flat['blocks/out/kernel'][1]), rtol=1e-4)
  patch = np.random.default_rng(2).normal(size=(3, 2, 2)).astype(np.float32)
  np.testing.assert_allclose(np.einsum('Ochw,chw->O', theirs['patch.weight'], patch),
                             patch.reshape(-1) @ flat['patch'], rtol=1e-5)
  fused = np.concatenate([theirs['blocks.0.k.weight'], theirs['blocks.0.v.weight']])
  assert np.array_equal(fused.T, flat['blocks/kv/kernel'][0])
  assert np.array_equal(theirs['blocks.2.last.scale'], flat['last/scale'])
  joined = np.concatenate([flat['blocks/up/kernel'][1].reshape(6, 6),
                           flat['blocks/gate/kernel'][1]], axis=1)
  assert np.array_equal(theirs['blocks.1.fused.weight'].T, joined)
  assert theirs['blocks.0.a.weight'].shape == (2, 6)
  assert theirs['blocks.0.b.weight'].shape == (8, 6)
  assert theirs['pooled.weight'].shape == (6, 3) and not theirs['pooled.weight'].any()


def test_there_and_back_is_byte_equal():
  ours = params()
  theirs = to_torch(RULES, ours)
  back = from_torch(RULES, theirs, shapes())
  for path, leaf in trees.flatten(ours).items():
    assert trees.flatten(back)[path].tobytes() == leaf.tobytes(), path
  assert names_and_shapes(RULES, shapes()) == {name: x.shape for name, x in theirs.items()}


def test_the_dtype_of_the_checkpoint_is_kept():
  theirs = {name: x.astype(np.float16) for name, x in to_torch(RULES, params()).items()}
  back = from_torch(RULES, theirs, shapes())
  assert {leaf.dtype for leaf in trees.flatten(back).values()} == {np.dtype(np.float16)}


def test_one_error_lists_all_that_does_not_fit():
  theirs = to_torch(RULES, params())
  del theirs['blocks.1.q.weight'], theirs['cls']
  theirs['stray.weight'] = np.zeros(3)
  theirs['proj.weight'] = theirs['proj.weight'].T
  with pytest.raises(UserError) as caught:
    from_torch(RULES, theirs, shapes(), where='some/folder')
  text = str(caught.value)
  assert text.startswith('some/folder: ') and '\n' not in text
  assert '2 missing: blocks.1.q.weight, cls;' in text
  assert '1 unknown: stray.weight;' in text
  assert '1 misshapen: proj.weight (4, 6) (needs (6, 4));' in text


def test_a_constant_is_checked_on_import():
  theirs = to_torch(RULES, params())
  theirs['pooled.weight'] = theirs['pooled.weight'] + 1e-6
  with pytest.raises(UserError, match=r'cannot hold: pooled.weight \(must be 0.0 throughout\)'):
    from_torch(RULES, theirs, shapes())


def test_a_parameter_without_a_rule_is_our_defect():
  with pytest.raises(AssertionError, match='no rule for .*nowhere'):
    to_torch(RULES, {**params(), 'nowhere': np.zeros(2)})
