"""At full size, without weights: the tables name every tensor of their classes, and no other."""

import pathlib

import jax.numpy as jnp
import pytest
from diffusers import AutoencoderKL
from diffusers import FluxTransformer2DModel

from jaxgen.conversion import engine
from jaxgen.conversion import families
from jaxgen.models import registry
from tests.models import parity

CLASSES = {
    'mmdit': (FluxTransformer2DModel, dict(pooled_dim=768, guidance_embed=True), 11.9e9),
    'kl': (AutoencoderKL, {}, 0.084e9),
}
RELEASES = [(family.name, layout.name, dict(fields)) for family in families.TABLES.values()
            for layout in family.layouts for fields in layout.published]


@pytest.mark.parametrize('name', CLASSES)
def test_tables_are_complete_at_full_size(name):
  kind, fields, size = CLASSES[name]
  section = registry.section(name, **fields)
  family = families.TABLES[name]
  config = family.write_config(section)
  module = registry.build(section, jnp.float32)
  parity.assert_complete(family.rules, module, lambda: kind.from_config(config))
  assert abs(parity.count(module) - size) < 0.005 * size


@pytest.mark.parametrize('name, layout, fields', RELEASES)
def test_releases_hold_the_same_numbers_under_other_names(name, layout, fields):
  family = families.TABLES[name]
  shapes = families.shapes_of(registry.section(name, **fields))
  ours, theirs = (families.size_of(engine.names_and_shapes(rules, shapes))
                  for rules in (family.rules, family.layout(layout).rules))
  assert ours == theirs


def test_the_documentation_names_every_family_and_class():
  text = (pathlib.Path(__file__).parents[2] / 'docs/conversion.md').read_text()
  for family in (*families.TABLES.values(), *families.TWINS):
    assert f'`{family.name}`' in text, family.name
    own = family.layouts[0].name == 'jaxgen'
    assert own or f'`{family.marker[1]}`' in text, family.marker
