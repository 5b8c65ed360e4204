"""Programs compiled while weights are read are those that draw: none of them is made again."""

import copy

import jax
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.examples import ExampleMaker
from jaxgen.operations.programs import Programs
from jaxgen.sampling.ahead import compiling
from jaxgen.sampling.generate import generate
from jaxgen.sampling.request import make_request


def test_what_was_compiled_ahead_is_not_compiled_to_draw(tiny_base, tiny_system):
  """On eight devices, with a given image and eight-bit kernels."""
  config = copy.deepcopy(tiny_base)
  config.data.prompt_tokens = 96
  config.sampling.update(steps=3, guidance=3.0)
  config.model.quantized = (('mllm/(?!vision).*', 'int8'),)
  picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
  requests = [make_request(config, 'a red circle', source=[picture])]
  parts = dict(maker=ExampleMaker.of(config, tiny_system.layout), config=config)
  params = jax.tree.map(np.asarray, jax.jit(tiny_system.init)(jax.random.key(0)))

  def shapes():
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)

  def made() -> int:
    """Programs that drawing makes."""
    with Programs() as programs:
      generate(tiny_system, params, requests, **parts)
    return programs.count

  jax.clear_caches()
  alone = made()
  jax.clear_caches()
  with compiling(tiny_system, shapes, requests, **parts) as parties:
    pass
  assert made() <= alone - 2  # the solver and the decoder
  assert made() == 0
  (image,), = generate(tiny_system, params, requests, parties=parties, **parts)
  (again,), = generate(tiny_system, params, requests, **parts)
  np.testing.assert_array_equal(image, again)


def test_a_request_that_cannot_be_drawn_is_told_before_weights_are_read(tiny_base, tiny_system):
  requests = [make_request(tiny_base, 'a red circle ' * 100)]
  with pytest.raises(UserError, match='prompt_tokens'):
    with compiling(tiny_system, tiny_system.shapes, requests, config=tiny_base,
                   maker=ExampleMaker.of(tiny_base, tiny_system.layout)):
      pytest.fail('the weights were read')
