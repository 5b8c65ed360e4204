"""Groups of frozen parameters alone: read, quantised, digested, left out where a cache stands for
them."""

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.data.image_tokens import FIELD as TOKENS_FIELD
from jaxgen.data.states import FIELD
from jaxgen.models.layers import quantized
from jaxgen.sharding import memory
from jaxgen.systems.base import System
from jaxgen.training.init_from import load_group
from jaxgen.training.state import AUTOENCODER
from jaxgen.training.state import Blueprint
from jaxgen.training.state import init_params

MLLM = 'mllm'  # parameter group of a multimodal language model


def read_by_steps(config: ConfigDict, system: System, blueprint: Blueprint) -> Blueprint:
  """The blueprint without the frozen parameters that caches stand for.

  Raises:
    UserError: some of these train.
  """
  if config.data.states:
    check_frozen(system, blueprint, config.data.states)
  if config.data.image_tokens:
    check_tower(system, blueprint, config.data.image_tokens)
  return dataclasses.replace(blueprint, frozen=left_over(config, system, blueprint.frozen))


def left_over(config: ConfigDict, system: System, frozen: Params) -> Params:
  """A tree of frozen parameters without what caches stand for."""
  gone = {AUTOENCODER} if config.data.cache else set()
  if config.data.states:
    gone |= set(conditioning_groups(system))
  left = {group: tree for group, tree in frozen.items() if group not in gone}
  return _tower_and_rest(left)[1] if config.data.image_tokens else left


def in_tower(path: str) -> bool:
  """Whether a path group/... is of the vision tower: whatever a ``MultimodalLM`` has beside its
  language model."""
  return path.startswith(f'{MLLM}/') and not path.startswith(f'{MLLM}/text/')


def _tower_and_rest(params: Params) -> tuple[Params, Params]:
  return trees.partition(params, {path: in_tower(path) for path in trees.flatten(params)})


def conditioning_groups(system: System) -> tuple[str, ...]:
  """The groups that compute the conditioning and nothing else, sorted."""
  others = {group for call, groups in system.reads.items() if call in ('denoise', 'encode')
            for group in groups}
  return tuple(sorted(set(system.reads['condition']) - others))


def check_frozen(system: System, blueprint: Blueprint, folder: str) -> None:
  """Raises a ``UserError`` where one of ``conditioning_groups`` trains."""
  groups = conditioning_groups(system)
  for path, trains in blueprint.trains.items():
    if trains and path.split('/')[0] in groups:
      raise user_error(FIELD, folder, f'stands for {", ".join(groups)}, but {path} trains; leave '
                       'it empty, or freeze them in config.trainable')


def check_tower(system: System, blueprint: Blueprint, folder: str, field: str = TOKENS_FIELD
                ) -> None:
  """Raises a ``UserError`` where there is no vision tower, or it trains."""
  if system.layout.vision is None:
    raise user_error(field, folder, 'stands for a vision tower, and this system has none; leave it '
                     'out')
  for path, trains in blueprint.trains.items():
    if trains and in_tower(path):
      raise user_error(field, folder, f'stands for the vision tower, but {path} trains; leave it '
                       'out, or freeze the tower in config.trainable')


def read_group(config: ConfigDict, system: System, blueprint: Blueprint, group: str,
               read_external: Callable[[str], Params] | None) -> Params:
  """A frozen group alone, ``{group: tree}``, as ``blueprint.stored`` at step 0; {} without
  parameters."""
  target = blueprint.stored.get(group, {})
  return _read(config, system, blueprint, group, target, read_external) if target else {}


def read_tower(config: ConfigDict, system: System, blueprint: Blueprint,
               read_external: Callable[[str], Params] | None) -> Params:
  """The frozen vision tower alone, ``{'mllm': tree}``, as ``blueprint.stored`` at step 0."""
  target = _tower_and_rest(blueprint.stored)[0]
  return _read(config, system, blueprint, MLLM, target[MLLM], read_external)


def _read(config: ConfigDict, system: System, blueprint: Blueprint, group: str, target: Params,
          read_external: Callable[[str], Params] | None) -> Params:
  loaded = {}
  if config.init_from[group]:
    shapes = trees.merge(blueprint.state.params, blueprint.stored)
    loaded[group], _, _ = load_group(config, group, shapes, read_external)
  return init_params(config, system, {group: target}, loaded)


def kernels_of(config: ConfigDict, system: System) -> dict[str, str]:
  rules = config.model.quantized
  return quantized.chosen_kernels(system.axes(), rules) if rules else {}


def of_group(config: ConfigDict, system: System, group: str, stored: Params) -> dict[str, Any]:
  """What the outputs of a group depend on, by name, as values of JSON.

  Args:
    config: of a run.
    system: of it.
    group: of parameters.
    stored: its frozen parameters, as ``Blueprint.stored``; all processes must come.
  """
  return _depends(config, system, group, group, stored, lambda path: True)


def of_tower(config: ConfigDict, system: System, stored: Params) -> dict[str, Any]:
  """The same of the outputs of the vision tower, whatever its language model is."""
  return _depends(config, system, MLLM, 'vision tower', stored, in_tower)


def _depends(config: ConfigDict, system: System, group: str, name: str, stored: Params,
             counts: Callable[[str], bool]) -> dict[str, Any]:
  """``of_group`` of the paths group/... that count, under a name."""
  section = trees.flatten(config.model[group].to_dict(), group)
  weights = {path.removeprefix(f'{group}/'): leaf
             for path, leaf in trees.flatten(stored.get(group, {}), group).items() if counts(path)}
  return {f'config/model/{path}'.replace('/', '.'): value for path, value in section.items()
          if counts(path)} | {
      'config.model.compute_dtype': config.model.compute_dtype,
      'config.model.frozen_dtype': config.model.frozen_dtype,
      f'eight-bit kernels of the {name}': {
          path: kind for path, kind in kernels_of(config, system).items()
          if path.startswith(f'{group}/') and counts(path)},
      f'weights of the {name}': digest(weights)}


def digest(params: Params) -> str:
  """32 hex digits of all values of a group, gathered from all processes."""
  digest = hashlib.blake2b(digest_size=16)
  for path, leaf in trees.flatten(params).items():
    leaf = jax.device_put(leaf, memory.of_devices(leaf))
    values = np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    digest.update(f'{path} {values.dtype} {values.shape}'.encode())
    digest.update(np.ascontiguousarray(values).view(np.uint8).data)
  return digest.hexdigest()
