"""Config sections become modules, and mistakes in them are named."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from ml_collections import ConfigDict

from jaxgen.core.errors import UserError
from jaxgen.models import registry

TINY_TEXT = dict(vocab=8, width=16, layers=1, heads=2, kv_heads=1, mlp=8)
TINY_VISION = dict(image_size=4, patch_size=2, width=8, layers=1, heads=2, mlp=8)


def test_a_section_is_complete_and_builds_what_it_says():
  section = registry.section('mmdit', width=64, heads=4, axes_dims=[4, 6, 6])
  assert section['family'] == 'mmdit' and section['theta'] == 10_000.0
  module = registry.build(ConfigDict(section), jnp.bfloat16)
  assert module.dtype == jnp.bfloat16
  assert module.config.axes_dims == (4, 6, 6)
  assert {'family': 'mmdit', **dataclasses.asdict(module.config)} == section


def test_sections_may_hold_sections():
  section = registry.section('internvl', text=TINY_TEXT, vision=TINY_VISION)
  assert section['text']['rope_theta'] == 1e6
  assert registry.build(ConfigDict(section), jnp.float32).config.vision.grid == 2


@pytest.mark.parametrize('values, message', [
    (dict(family='unet'), "config.model: family = 'unet': must be one of"),
    (dict(), 'config.model: family: must be one of'),
    (dict(family='mmdit', widht=64), 'config.model.denoiser.widht = 64: no such field; known'),
    (dict(family='mmdit', width=64.0), 'config.model.denoiser.width = 64.0: must be int'),
    (dict(family='mmdit', heads=True), 'config.model.denoiser.heads = True: must be int'),
    (dict(family='mmdit', axes_dims=(1.5, 2, 3)), 'axes_dims[0] = 1.5: must be int'),
    (dict(family='mmdit', axes_dims=16), 'axes_dims = 16: must be tuple'),
    (dict(family='residual_queries'), 'config.model.bridge.width: is missing'),
    (dict(family='internvl', vision=TINY_VISION, text=3), 'mllm.text = 3: must be a section'),
    (dict(family='internvl', vision=TINY_VISION, text={**TINY_TEXT, 'depth': 2}),
     'config.model.mllm.text.depth = 2: no such field'),
])
def test_mistakes_are_named(values, message):
  with pytest.raises(UserError) as caught:
    registry.build(values, jnp.float32)
  assert message in str(caught.value) and '\n' not in str(caught.value)


def test_a_family_may_have_no_parameters():
  """The others are counted in tests/conversion/test_complete.py."""
  assert not registry.param_shapes(registry.build(registry.section('pixel'), jnp.float32))


@pytest.mark.parametrize('family', [
    name for name, family in registry.FAMILIES.items() if family.group == 'denoiser'])
def test_every_denoiser_has_the_same_call(family):
  """At full size, traced only."""
  module = registry.build(registry.section(family), jnp.float32)
  x_t, t, visual, conditioning = module.example()
  variables = {'params': registry.param_shapes(module)}
  velocity = jax.eval_shape(module.apply, variables, x_t, t, visual, conditioning)
  assert velocity.shape == x_t.shape and velocity.dtype == jnp.float32
  for name, wanted in (('guidance', module.takes_guidance), ('pooled', module.pooled_dim)):
    other = conditioning.replace(**{name: None if wanted else jnp.ones((1, 1))})
    with pytest.raises(AssertionError, match=name):
      jax.eval_shape(module.apply, variables, x_t, t, visual, other)
