"""What can be drawn from: a run in its workdir, or a published model that a config names."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from jaxgen.checkpoints.weights import check_fit
from jaxgen.checkpoints.weights import load_weights
from jaxgen.checkpoints.weights import newest_step
from jaxgen.checkpoints.weights import open_weights
from jaxgen.checkpoints.weights import read_config
from jaxgen.config import from_json
from jaxgen.core.types import Params
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.kept_tokenizers import with_kept
from jaxgen.sampling.generate import Images
from jaxgen.sampling.generate import generate
from jaxgen.sampling.interleaved import converse
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.interleaved import Event
from jaxgen.sampling.interleaved import Options
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import make_requests
from jaxgen.sharding.mesh import use_compilation_cache
from jaxgen.systems.base import System
from jaxgen.systems.registry import make_system
from jaxgen.systems.registry import with_preset

Change = Callable[[Params], Params]


@dataclasses.dataclass(frozen=True)
class Run:
  """A system with its parameters; ``draw`` and ``generate`` draw from it, ``converse`` answers."""

  config: ConfigDict
  system: System
  params: Params
  maker: ExampleMaker

  def changed(self, change: Change) -> 'Run':
    """The run with other parameters, made of its own."""
    return dataclasses.replace(self, params=change(self.params))

  def draw(self, requests: Sequence[Request], **options) -> list[Images]:
    """``jaxgen.sampling.generate.generate`` with this run's parts."""
    return generate(self.system, self.params, requests, maker=self.maker, config=self.config,
                    **options)

  def converse(self, dialogues: Sequence[Dialogue], options: Options) -> Iterator[Event]:
    """``jaxgen.sampling.interleaved.converse`` with this run's parts."""
    return converse(self.system, self.params, dialogues, maker=self.maker, config=self.config,
                    options=options)

  def generate(self, texts: Sequence[str], *, seed: int, guidance: float | None = None,
               steps: int = 0,
               progress: Callable[[int, int], None] = lambda done, total: None) -> np.ndarray:
    """One image of the config's size for each text; uint8[n, H, W, 3]."""
    requests = make_requests(self.config, texts, seed=seed, guidance=guidance)
    return np.stack([image for image, in self.draw(requests, steps=steps, progress=progress)])


@dataclasses.dataclass(frozen=True)
class Origin:
  """Where a run comes from, before its weights are read, which takes long.

  Attributes:
    config: of the run, with the tokenizers that it keeps.
    shapes: tells shape and dtype of every parameter.
    load: reads the weights.
    named: what names the weights in records.
  """

  config: ConfigDict
  shapes: Callable[[], Params]
  load: Callable[[], Run]
  named: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def trained(workdir: str, weights: str = 'ema', preset: str = '',
            change: Change = lambda params: params,
            named: Mapping[str, Any] | None = None) -> Origin:
  """A workdir; see ``load_run``, and ``published`` for ``change`` and ``named``."""
  config = with_kept(run_config(workdir, preset), workdir)

  def shapes():
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
                        open_weights(workdir, make_system(config).groups, weights))

  return Origin(config, shapes, lambda: load_run(workdir, weights, preset).changed(change),
                dict(named or {}, workdir=workdir, step=newest_step(workdir), weights=weights,
                     preset=preset))


def published(config: ConfigDict, read_external: Callable[[str], Params], preset: str = '',
              change: Change = lambda params: params,
              named: Mapping[str, Any] | None = None) -> Origin:
  """A model that was not trained here.

  Args:
    config: whose ``init_from`` names the models of all groups.
    read_external: opens one of them as a tree of ``Stored``.
    preset: as for ``run_config``.
    change: makes other parameters of those that were read.
    named: what names the model in records, besides the preset.
  """
  config = with_preset(config, preset)

  def shapes():
    dtype = jnp.dtype(config.model.frozen_dtype)
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype),
                        make_system(config).shapes())

  return Origin(config, shapes, lambda: load_published(config, read_external).changed(change),
                dict(named or {}, preset=preset))


def run_config(workdir: str, preset: str = '') -> ConfigDict:
  """The config of a workdir.

  Args:
    workdir: folder of a run.
    preset: of its system, see ``System.presets``; '' = as the run's config says.

  Raises:
    UserError: no such run, a config with unknown fields, or no such preset.
  """
  return with_preset(from_json(read_config(workdir)), preset)


def load_run(workdir: str, weights: str = 'ema', preset: str = '') -> Run:
  """Reads a workdir.

  Args:
    workdir: folder of a run; its newest complete checkpoint is taken.
    weights: ``ema`` (the plain parameters where the run keeps none) or ``params``.
    preset: as for ``run_config``.

  Raises:
    UserError: as ``run_config``, no checkpoint in it, or weights that do not fit its config.
  """
  use_compilation_cache()
  config = with_kept(run_config(workdir, preset), workdir)
  system = make_system(config)
  params, _ = load_weights(workdir, system.groups, weights, shapes=system.shapes())
  return Run(config, system, params, ExampleMaker.of(config, system.layout))


def load_published(config: ConfigDict, read_external: Callable[[str], Params],
                   known: Params | None = None) -> Run:
  """Reads the models that a config's ``init_from`` names.

  Args:
    config: names the models.
    read_external: reads a model of another library.
    known: parameters of groups that are not read.

  Raises:
    UserError: weights that do not fit the config.
  """
  use_compilation_cache()
  system, dtype = make_system(config), jnp.dtype(config.model.frozen_dtype)
  params = dict(known or {})
  for group in system.groups:
    if group not in params:
      stored = read_external(config.init_from[group])
      check_fit({group: stored}, {group: system.shapes([group])[group]}, config.init_from[group])
      params[group] = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), stored)
  return Run(config, system, params, ExampleMaker.of(config, system.layout))
