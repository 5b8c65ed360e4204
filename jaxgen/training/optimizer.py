"""AdamW, Muon on hidden matrices, learning-rate schedules and the clip by global norm."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict
from optax import contrib

from jaxgen.core import trees
from jaxgen.models.layers.linear import HIDDEN

MUON_MOMENTUM = 0.95
MUON_ITERATIONS = 5
# Root mean square of a Muon update before the learning rate, as that of AdamW's updates is
# (arXiv 2502.16982): one learning rate then serves both halves, as L091 has a single one.
MUON_RMS = 0.2

Schedule = Callable[[jax.Array | int], jax.Array]


def make_schedule(config: ConfigDict) -> Schedule:
  """Learning rate by the number of updates done: warm-up from 0, then constant or cosine to 0.

  The first update of a warm-up over ``w`` steps has ``1 / w`` of the rate, the ``w``-th all of it.
  """
  section, steps = config.optimizer, config.train.steps
  warmup = section.warmup_steps

  def schedule(count):
    count = jnp.asarray(count, jnp.float32)
    rate = section.learning_rate * jnp.minimum(1.0, (count + 1) / max(warmup, 1))
    if section.schedule == 'constant':
      return rate
    progress = jnp.clip((count - warmup) / max(steps - warmup, 1), 0.0, 1.0)
    return rate * 0.5 * (1 + jnp.cos(jnp.pi * progress))

  return schedule


def make_optimizer(config: ConfigDict, axes: trees.Tree) -> optax.GradientTransformation:
  """The optimizer of ``config.optimizer`` for parameters with these logical axes.

  Args:
    config: the whole config; the schedule needs ``train.steps``.
    axes: tree of tuples of logical names of the parameters that train.
  """
  section = config.optimizer
  schedule = make_schedule(config)
  rule = optax.chain(
      _adam(section), optax.add_decayed_weights(section.weight_decay),
      optax.scale_by_learning_rate(schedule))
  if section.name == 'muon':
    matrices = trees.map_named(lambda _, names: matrix_dims(names), axes)
    labels = trees.map_named(lambda _, dims: 'muon' if dims else 'adamw', matrices)
    hidden = trees.map_named(lambda _, dims: dims or optax.MaskedNode(), matrices)
    rule = optax.partition(
        {'muon': _muon(schedule, section, hidden), 'adamw': rule}, labels)
  return optax.chain(optax.clip_by_global_norm(section.clip_norm), rule)


def matrix_dims(names: tuple[str, ...]) -> contrib.MuonDimensionNumbers | None:
  """Which dims of a kernel are the input and which the output of a hidden matrix.

  ``('layers', 'embed', 'heads', 'head_dim')`` is one matrix per layer from dim 1 to dims (2, 3).

  Returns:
    The dims, or None where the parameter is not a hidden matrix, and AdamW trains it (A19).
  """
  sides: list[list[int]] = []
  for index, name in enumerate(names):
    if name == 'layers':
      continue
    if name not in HIDDEN:
      return None
    if name == 'head_dim' and sides and names[index - 1] in ('heads', 'kv_heads'):
      sides[-1].append(index)
    else:
      sides.append([index])
  if len(sides) != 2:
    return None
  return contrib.MuonDimensionNumbers(tuple(sides[0]), tuple(sides[1]))


def _adam(section: ConfigDict) -> optax.GradientTransformation:
  """Both moments stored in ``moments_dtype``; optax has an argument for the first alone.

  The arithmetic is fp32, and optax casts the second moment back to what it was stored in.
  """
  dtype = jnp.dtype(section.moments_dtype)
  adam = optax.scale_by_adam(section.b1, section.b2, section.eps, mu_dtype=dtype)

  def init(params):
    state = adam.init(params)
    return state._replace(nu=optax.tree.cast(state.nu, dtype))

  return optax.GradientTransformation(init, adam.update)


def _muon(schedule: Schedule, section: ConfigDict, dims: Any) -> optax.GradientTransformation:
  """Momentum, orthogonalised matrix by matrix with Newton-Schulz iterations (A19)."""
  def scale(updates, params=None):
    del params
    return jax.tree.map(_to_rms, updates, dims)

  return optax.chain(
      contrib.scale_by_muon(
          ns_steps=MUON_ITERATIONS, beta=MUON_MOMENTUM, mu_dtype=section.moments_dtype,
          weight_dimension_numbers=dims),
      optax.stateless(scale),
      optax.add_decayed_weights(section.weight_decay),
      optax.scale_by_learning_rate(schedule),
  )


def _to_rms(update: jax.Array, dims: contrib.MuonDimensionNumbers) -> jax.Array:
  """An orthogonal ``m x n`` matrix has entries of root mean square ``1 / sqrt(max(m, n))``."""
  fans = [math.prod(update.shape[dim] for dim in side) for side in dims]
  return update * (MUON_RMS * math.sqrt(max(fans)))
