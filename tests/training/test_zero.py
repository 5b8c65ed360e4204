"""ZeRO-2 computes what ZeRO-3 does, and gathers the parameters outside of all loops."""

import copy

import jax
import numpy as np
import pytest

from jaxgen.config import validate
from jaxgen.core.errors import UserError
from jaxgen.planning import hlo
from tests.training.stepped import after_one_step


def gathers(text):
  """How often all-gathers run, and how many stand outside of loops."""
  module = hlo.Module(text)
  runs = [(computation, times) for computation, line, times in module.walk(module.entry)
          if line.opcode == 'all-gather']
  return sum(times for _, times in runs), sum(computation == module.entry for computation, _ in runs)


@pytest.mark.slow
def test_stage_two_equals_stage_three_and_gathers_once(tiny_base):
  config = copy.deepcopy(tiny_base)
  config.mesh.update(data=2, fsdp=2)
  config.train.accumulate = 2
  state, loss, text = after_one_step(config, 4)
  config.train.zero = 2
  whole, whole_loss, whole_text = after_one_step(config, 4)
  params, whole_params = jax.device_get((state.params, whole.params))
  np.testing.assert_allclose(whole_loss, loss, rtol=1e-6)
  jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole_params, params)
  (runs, _), (whole_runs, outside) = gathers(text), gathers(whole_text)
  trained = len(jax.tree.leaves(params))
  assert whole_runs < runs / 2
  assert outside >= trained / 4  # small ones are gathered together


def test_other_stages_are_refused(tiny_config):
  tiny_config.train.zero = 1
  with pytest.raises(UserError, match=r'config\.train\.zero = 1.*2, 3'):
    validate(tiny_config)
