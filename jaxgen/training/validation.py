"""Validation while a run trains: the loss of held-out rows under fixed noise, and images.

The rows come from the loader and the encoder of training, always the same ones under the same keys,
so two losses differ by the parameters alone. Noise and timesteps are keyed by global row, so they
do not depend on how many devices and hosts there are. What draws the images is handed in by a part
that may sample.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from etils import epath
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Batch
from jaxgen.core.types import Params
from jaxgen.data.loader import Loader
from jaxgen.data.loader import make_loader
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import Objectives
from jaxgen.sharding import partition
from jaxgen.systems.base import System
from jaxgen.training.latents import Encoder
from jaxgen.training.latents import global_batch
from jaxgen.training.state import Blueprint
from jaxgen.training.state import shardings
from jaxgen.training.state import TrainState
from jaxgen.training.step import micro_batches

HELD_OUT = 'config.validation.sources'
# (step, 'ema' or 'params', parameters that steps read) -> name -> image uint8[H, W, 3].
Draw = Callable[[int, str, Params], Mapping[str, np.ndarray]]
Sums = Mapping[str, tuple[jax.Array, jax.Array]]  # name -> (sum, weight)


class Drawing(Protocol):
  """Prepares the drawing of a run's images, as ``jaxgen.sampling.validation.drawing`` does."""

  def __call__(self, config: ConfigDict, system: System, groups: Sequence[str],
               workdir: epath.Path) -> Draw | None:
    """The function that draws; None where there is nothing to draw. Raises a ``UserError`` for
    what cannot be drawn."""


def prepare(config: ConfigDict, system: System, groups: Sequence[str], workdir: epath.Path,
            drawing: Drawing | None) -> Draw | None:
  """What draws the images of a run's validation; None where none are drawn.

  Raises:
    UserError: a validation of nothing, or what cannot be drawn.
  """
  every = config.validation.every
  draw = drawing(config, system, groups, workdir) if every and drawing else None
  if every and not draw and not config.validation.sources:
    raise user_error('config.validation.every', every, 'there is nothing to validate; name '
                     'validation.sources or validation.requests, or set it to 0')
  return draw


def open_rows(config: ConfigDict, system: System, rows: tuple[int, int]) -> Loader | None:
  """The loader of the held-out rows [low, high); None where no loss of them is asked for.

  Raises:
    UserError: a source that is missing, empty or broken.
  """
  if not config.validation.every or not config.validation.sources:
    return None
  return make_loader(held_out(config), system.layout, rows=rows, where=HELD_OUT)


class Validation:
  """Validates the parameters of a run; every process calls it at the same steps.

  Args:
    config: of the run.
    system: of the run.
    blueprint: of the run, as its steps read parameters.
    encoder: of the run's latents.
    rows: sharding of the global batch.
    loader: of ``open_rows``; it is closed with this.
    draw: of ``prepare``.
  """

  def __init__(self, config: ConfigDict, system: System, blueprint: Blueprint, encoder: Encoder,
               rows: NamedSharding, loader: Loader | None, draw: Draw | None):
    self._every, self._last = config.validation.every, config.train.steps
    self._weights, self._draw = config.validation.weights, draw
    self._params = shardings(blueprint.state.params)
    self._losses = _Losses(config, system, blueprint, encoder, rows, loader) if loader else None

  def due(self, step: int, last: bool) -> bool:
    """Whether a step is followed by a validation: the last one of a run is, one that is the last
    because the run is told to stop is not."""
    return bool(self._every) and (step == self._last or not last and step % self._every == 0)

  def __call__(self, step: int, state: TrainState, frozen: Params
               ) -> tuple[dict[str, float], dict[str, np.ndarray]]:
    """Validates the parameters behind a step.

    Args:
      step: its number.
      state: behind it.
      frozen: frozen parameters as steps read them.

    Returns:
      Metrics and images uint8[H, W, 3], both as ``validation/<ema or params>/...``.
    """
    metrics, images = {}, {}
    for weights, params in self._chosen(state).items():
      if self._losses:
        metrics |= {f'validation/{weights}/{name}': value
                    for name, value in self._losses(params, frozen).items()}
      if self._draw:
        images |= {f'validation/{weights}/{name}': image for name, image in
                   self._draw(step, weights, trees.merge(params, frozen)).items()}
    return metrics, images

  def close(self) -> None:
    """Closes the loader."""
    if self._losses:
      self._losses.close()

  def _chosen(self, state: TrainState) -> dict[str, Params]:
    """The parameters that are asked for; the plain ones where the run keeps no average."""
    found = {}
    if state.ema and self._weights != 'params':
      found['ema'] = jax.device_put(state.ema, self._params)  # it may be in host memory
    if not found or self._weights == 'both':
      found['params'] = state.params
    return found


class _Losses:
  """The loss of the first batches of the validation's sources."""

  def __init__(self, config: ConfigDict, system: System, blueprint: Blueprint, encoder: Encoder,
               rows: NamedSharding, loader: Loader):
    self._config = config = held_out(config)
    self._objectives = make_objectives(config)
    self._encoder, self._rows = encoder, rows
    self._loader, self._start = loader, loader.state()
    whole = partition.replicated(rows.mesh)
    sums = jax.jit(make_sums(config, system, self._objectives), out_shardings=whole, in_shardings=(
        shardings(blueprint.state.params), shardings(blueprint.frozen), rows, whole))
    batch = self._batch()  # outside of the scope: encoders have a mesh of this process's devices
    self._rewind()
    with partition.scope(rows.mesh, blueprint.table):  # compiled before the first step
      self._program = sums.lower(blueprint.state.params, blueprint.frozen, batch,
                                 self._key(0)).compile()

  def __call__(self, params: Params, frozen: Params) -> dict[str, float]:
    totals: dict[str, np.ndarray] = {}
    for number in range(self._config.validation.batches):
      found = jax.device_get(self._program(params, frozen, self._batch(), self._key(number)))
      for name, pair in found.items():
        totals[name] = totals.get(name, 0) + np.asarray(pair, np.float64)
    self._rewind()
    means = {name: float(total / weight) for name, (total, weight) in totals.items() if weight > 0}
    terms = [weight * means[f'{name}/loss'] for name, (_, weight) in self._objectives.items()
             if f'{name}/loss' in means]
    means |= dict(loss=sum(terms)) if terms else {}
    return {name: value for name, value in means.items() if math.isfinite(value)}

  def close(self) -> None:
    self._loader.close()

  def _rewind(self) -> None:
    self._loader.restore(self._start, 0)

  def _batch(self) -> Batch:
    return global_batch(next(self._loader), self._encoder, self._rows, self._config.train.rows)

  def _key(self, number: int) -> np.ndarray:
    """u32[2], of the batch of that number."""
    return np.asarray([self._config.validation.seed, number], np.uint32)


def held_out(config: ConfigDict) -> ConfigDict:
  """The config whose loader gives the rows of a run's validation, with a seed of their own."""
  config = config.copy_and_resolve_references().unlock()
  config.data.sources, config.seed = config.validation.sources, config.validation.seed
  return config.lock()


def make_sums(config: ConfigDict, system: System, objectives: Objectives
              ) -> Callable[[Params, Params, Batch, jax.Array], Sums]:
  """Builds ``sums(params, frozen, batch, key u32[2])``: what the objectives add up over a batch, as
  ``<objective>/loss`` and ``<objective>/<its metrics>``, with the weights that they are means by.

  Args:
    config: reads ``train.accumulate``: memory is that of a micro-batch, as in training.
    system: passed to the objectives.
    objectives: name -> (objective, weight).
  """
  def sums(params: Params, frozen: Params, batch: Batch, key: jax.Array) -> dict[str, Any]:
    params, rng = trees.merge(params, frozen), jax.random.wrap_key_data(key)

    def of_part(_, part):
      found = {}
      for index, (name, (objective, _)) in enumerate(objectives.items()):
        total, terms = objective(system, params, part, jax.random.fold_in(rng, index))
        terms = dict(terms, loss=(total, objective.weight(part)))
        found |= {f'{name}/{term}': pair for term, pair in terms.items()}
      return None, found

    _, found = jax.lax.scan(of_part, None, micro_batches(batch, config.train.accumulate))
    return jax.tree.map(lambda leaf: leaf.sum(0), found)

  return sums
