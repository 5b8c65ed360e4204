"""Groups of frozen parameters alone: read, quantised, digested, left out where a cache stands for
them."""

import dataclasses
import functools
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
from jaxgen.data.states import FIELD
from jaxgen.models.layers import quantized
from jaxgen.systems.base import all_axes
from jaxgen.systems.base import System
from jaxgen.training.init_from import load_group
from jaxgen.training.state import AUTOENCODER
from jaxgen.training.state import Blueprint
from jaxgen.training.state import init_params


def read_by_steps(config: ConfigDict, system: System, blueprint: Blueprint) -> Blueprint:
  """The blueprint without the frozen groups that caches stand for.

  Raises:
    UserError: one of these groups trains.
  """
  gone = {AUTOENCODER} if config.data.cache else set()
  if config.data.states:
    check_frozen(system, blueprint, config.data.states)
    gone |= set(told_groups(system))
  return dataclasses.replace(blueprint, frozen={
      group: tree for group, tree in blueprint.frozen.items() if group not in gone})


def told_groups(system: System) -> tuple[str, ...]:
  """The groups that compute what the denoiser is told, and nothing else, sorted."""
  others = {group for call, groups in system.reads.items() if call in ('denoise', 'encode')
            for group in groups}
  return tuple(sorted(set(system.reads['condition']) - others))


def check_frozen(system: System, blueprint: Blueprint, folder: str) -> None:
  """Raises a ``UserError`` where one of ``told_groups`` trains."""
  groups = told_groups(system)
  for path, trains in blueprint.trains.items():
    if trains and path.split('/')[0] in groups:
      raise user_error(FIELD, folder, f'stands for {", ".join(groups)}, but {path} trains; leave '
                       'it empty, or freeze them in config.trainable')


def read_group(config: ConfigDict, system: System, blueprint: Blueprint, group: str,
               read_external: Callable[[str], Params] | None) -> Params:
  """A frozen group alone, ``{group: tree}``, as a run has it at step 0; {} without parameters."""
  target = {group: blueprint.stored.get(group, {})}
  if not target[group]:
    return {}
  loaded = {}
  if config.init_from[group]:
    loaded[group], _, _ = load_group(config, group, target, read_external)
  return init_params(config, system, target, loaded)


def quantized_groups(config: ConfigDict, system: System, stored: Params) -> Params:
  kernels = kernels_of(config, system)
  return jax.jit(functools.partial(quantized.quantize, axes=all_axes(system), kernels=kernels)
                 )(stored) if kernels else stored


def kernels_of(config: ConfigDict, system: System) -> dict[str, str]:
  rules = config.model.quantized
  return quantized.chosen_kernels(all_axes(system), rules) if rules else {}


def of_group(config: ConfigDict, system: System, group: str, stored: Params) -> dict[str, Any]:
  """What the outputs of a group depend on, by name, as values of JSON.

  Args:
    config: of a run.
    system: of it.
    group: of parameters.
    stored: its frozen parameters, on the devices and not quantised; all processes must come.
  """
  section = trees.flatten(config.model[group].to_dict(), f'config/model/{group}')
  return {path.replace('/', '.'): value for path, value in section.items()} | {
      'config.model.compute_dtype': config.model.compute_dtype,
      'config.model.frozen_dtype': config.model.frozen_dtype,
      f'eight-bit kernels of the {group}': {
          path: name for path, name in kernels_of(config, system).items()
          if path.startswith(f'{group}/')},
      f'weights of the {group}': digest(stored.get(group, {}))}


def digest(params: Params) -> str:
  """32 hex digits of all values of a group, gathered from all processes."""
  digest = hashlib.blake2b(digest_size=16)
  for path, leaf in trees.flatten(params).items():
    values = np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
    digest.update(f'{path} {values.dtype} {values.shape}'.encode())
    digest.update(np.ascontiguousarray(values).view(np.uint8).data)
  return digest.hexdigest()
