"""The families that conversion knows; recognises a model by its config or tensor names."""

import dataclasses
import functools
import math
import os
import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxgen.conversion import engine
from jaxgen.conversion import lora_names
from jaxgen.conversion.family import Family
from jaxgen.conversion.family import Layout
from jaxgen.conversion.tables import adapter
from jaxgen.conversion.tables import clip
from jaxgen.conversion.tables import clip_text
from jaxgen.conversion.tables import connectors
from jaxgen.conversion.tables import cosmos
from jaxgen.conversion.tables import dc_ae
from jaxgen.conversion.tables import dino
from jaxgen.conversion.tables import flux
from jaxgen.conversion.tables import hunyuan_video
from jaxgen.conversion.tables import hunyuan_video_vae
from jaxgen.conversion.tables import internvl
from jaxgen.conversion.tables import kl
from jaxgen.conversion.tables import llama
from jaxgen.conversion.tables import qwen2_5_vl
from jaxgen.conversion.tables import qwen3
from jaxgen.conversion.tables import qwen_image
from jaxgen.conversion.tables import sana
from jaxgen.conversion.tables import sd3
from jaxgen.conversion.tables import t5
from jaxgen.conversion.tables import wan_vae
from jaxgen.conversion.tables import z_image
from jaxgen.core.errors import UserError
from jaxgen.core.errors import user_error
from jaxgen.core.mismatch import shorten
from jaxgen.models import registry

TABLES: dict[str, Family] = {
    table.FAMILY.name: table.FAMILY for table in (
        adapter, clip_text, cosmos, dc_ae, flux, hunyuan_video, hunyuan_video_vae, internvl, kl,
        llama, qwen2_5_vl, qwen3, qwen_image, sana, sd3, t5, wan_vae, z_image)
} | {family.name: family for family in (
    *connectors.FAMILIES, clip.CLIP, clip.SIGLIP, clip.SIGLIP2, dino.DINO,
    dino.DINOV2, dino.DINOV2_REGISTERS)}
# Classes that import knows besides; their models are exported as the class of the table.
TWINS: tuple[Family, ...] = (clip_text.WHOLE, hunyuan_video_vae.RELEASED, wan_vae.QWEN_IMAGE)


def family_of(config: Mapping[str, Any], group: str = '') -> Family | None:
  """The family that a config.json names, if jaxgen knows it.

  Args:
    config: parsed config.json.
    group: that the model is to fill. A whole CLIP fills two: it is read as a text encoder, as
      pipelines need it, unless ``registry.TOWER`` is asked for.
  """
  return next((family for family in readings(config)
               if not group or registry.FAMILIES[family.name].group == group), None)


def readings(config: Mapping[str, Any]) -> list[Family]:
  """The families that a config.json may be read as, the usual one first."""
  return [family for family in (*TWINS, *TABLES.values())
          if config.get(family.marker[0]) == family.marker[1]]


def unknown(config: Mapping[str, Any], where: str, group: str = '') -> UserError:
  """The error for a config.json of a class that jaxgen does not know, or not for this group."""
  shown = config.get('_class_name') or config.get('model_type')
  known = sorted({family.marker[1] for family in (*TABLES.values(), *TWINS)
                  if not group or registry.FAMILIES[family.name].group == group})
  kind = f'{group} ' if group else 'model '
  return user_error(where, shown, f'not a {kind}that jaxgen can read; known: {known}')


def layout_of(family: Family, names: Collection[str]) -> Layout:
  """The family's layout that matches the most of these tensor names."""
  return max(family.layouts, key=lambda layout: len(known_names(layout, names)))


def known_names(layout: Layout, names: Collection[str]) -> list[str]:
  """The names that a table mentions."""
  pattern = _pattern(layout.rules)
  return [name for name in names if pattern.fullmatch(name)]


def shared_prefix(names: Collection[str], family: Family | None) -> str:
  """The prefix that all names share without which tables know more of them; '' = none.

  Training code writes such prefixes: ``module.``, ``_orig_mod.``, ``model.diffusion_model.``.

  Args:
    names: of the tensors.
    family: whose tables are asked; None = all.
  """
  shared = os.path.commonprefix(list(names)).split('.')[:-1]
  prefixes = [''.join(f'{part}.' for part in shared[:count]) for count in range(len(shared) + 1)]
  if len(prefixes) == 1:
    return ''
  layouts = [layout for each in ([family] if family else TABLES.values())
             for layout in each.layouts]

  def known(prefix: str) -> int:
    rest = [name.removeprefix(prefix) for name in names]
    return max(len(known_names(layout, rest)) for layout in layouts)

  return max(prefixes, key=known)  # of equal ones the shortest


def section_by_tensors(tensors: Mapping[str, engine.Tensor], where: str) -> dict[str, Any]:
  """The model section of weights without a config: a release whose sizes are those published.

  Raises:
    UserError: names of no known layout, or sizes that were not published.
  """
  names = [name for name in tensors if tensors[name].shape]
  likely = [(family, layout) for family in TABLES.values() for layout in family.layouts
            if layout.published and 2 * len(known_names(layout, names)) > len(names)]
  for family, layout in likely:
    for release in layout.published:
      fields = release.fields | {field.ours: field.value for field in layout.implied}
      section = registry.section(family.name, **fields)
      wanted = engine.names_and_shapes(layout.rules, shapes_of(section))
      if re.search(release.path, where, re.IGNORECASE) and all(
          name in tensors and tuple(tensors[name].shape) == shape
          for name, shape in wanted.items()):
        print(f'{where}: no config.json; by its tensors this is {release.name}, with whose '
              'settings it is read', file=sys.stderr, flush=True)
        return section
  if lora_names.are_adapters(names):
    raise user_error(where, None, 'holds LoRA adapters and no model; add them to one by jaxgen '
                     'convert import --path=... --base=...')
  found = ' or '.join(family.marker[1] for family, _ in likely)
  raise user_error(where, None, 'has no config.json beside it, and its tensors are '
                   + (f'like those of {found}, but of other sizes than published; put the '
                      'config.json of that class beside it' if found else
                      f'of no model that jaxgen knows by their names: {shorten(sorted(names))}'))


def measured(tensors: Mapping[str, engine.Tensor]
             ) -> list[tuple[Family, dict[str, Any], dict[str, engine.Tensor]]]:
  """The models of families without a class that tensors without a config.json are made of.

  Returns:
    ``(family, section, its tensors)`` of each, several where they are saved in one file; empty
    where this does not explain every tensor.
  """
  found, left = [], set(tensors)
  for family in TABLES.values():
    own = {name: tensors[name] for name in known_names(family.layouts[0], tensors)
           } if family.measure else {}
    fields = own and family.measure({name: tuple(leaf.shape) for name, leaf in own.items()})
    if fields:
      found.append((family, registry.section(family.name, **fields), own))
      left -= own.keys()
  return [] if left else found


def shapes_of(section: Mapping[str, Any]) -> dict[str, Any]:
  """Shapes of the parameters that a model section describes."""
  return registry.param_shapes(registry.build(section, jnp.float32))


def size_of(shapes: Mapping[str, tuple[int, ...]]) -> int:
  """How many numbers arrays of these shapes hold."""
  return sum(math.prod(shape) for shape in shapes.values())


def exportable(module: nn.Module, layout: str = '') -> tuple[Family, dict[str, Any]]:
  """The family that a module is written as in a layout, and its config.json.

  Raises:
    UserError: no class of theirs has this module's options.
  """
  refusals = []
  for name, family in TABLES.items():
    known = registry.FAMILIES[name]
    if type(module) is known.module and type(module.config) is known.config:
      own = family.layout(layout)
      section = registry.section(name, **dataclasses.asdict(module.config))
      try:
        return family, family.write_config(section, own)
      except UserError as error:
        refusals.append(str(error))
  raise user_error(type(module).__name__, None,
                   '; '.join(refusals) or 'no table of names knows this module')


@functools.cache
def _pattern(rules: engine.Rules) -> re.Pattern[str]:
  names = {name for rule in rules
           for name in (rule.names if isinstance(rule, engine.Rule) else (rule.theirs,))}
  return re.compile('|'.join(
      re.sub(r'\\\{\w\\\}', r'\\d+', re.escape(name)) for name in sorted(names)))
