"""AdamW and Muon, learning-rate schedules and gradient clipping by global norm."""

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.sharding.rules import with_changes
from jaxgen.training import muon


def make_schedule(config: ConfigDict) -> optax.Schedule:
  """Learning rate as a function of updates done: linear warm-up, then constant or cosine to 0.

  With ``w`` warm-up steps the first update uses ``1 / w`` of the rate and the ``w``-th all of it.
  """
  section = config.optimizer
  rate, warmup = section.learning_rate, section.warmup_steps
  if section.schedule == 'constant':
    after = optax.constant_schedule(rate)
  else:
    after = optax.cosine_decay_schedule(rate, max(config.train.steps - warmup, 1))
  if not warmup:
    return after
  # optax.warmup_cosine_decay_schedule would give the first update a rate of 0.
  before = optax.linear_schedule(rate / warmup, rate, warmup - 1)
  return optax.join_schedules([before, after], [warmup])


def make_optimizer(config: ConfigDict, axes: trees.Tree) -> optax.GradientTransformation:
  """Builds the optimizer of ``config.optimizer``.

  Args:
    config: the whole config; the schedule also reads ``train.steps``, and Muon reads
      ``mesh.rules`` and ``model.compute_dtype``.
    axes: tree of tuples of logical axis names, of the trainable parameters.
  """
  section = config.optimizer
  schedule = make_schedule(config)
  direction = _adam(section)
  if section.name == 'muon':
    hidden = trees.map_named(lambda _, names: muon.hidden_matrices(names), axes)
    labels = trees.map_named(lambda _, found: 'muon' if found else 'adamw', hidden)
    hidden = trees.map_named(lambda _, found: found or optax.MaskedNode(), hidden)
    orthogonal = muon.scale_by_muon(hidden, with_changes(config.mesh.rules),
                                    section.moments_dtype, config.model.compute_dtype)
    direction = optax.partition({'muon': orthogonal, 'adamw': direction}, labels)
  rule = optax.chain(direction, optax.add_decayed_weights(section.weight_decay),
                     optax.scale_by_learning_rate(schedule))
  return optax.chain(optax.clip_by_global_norm(section.clip_norm), rule)


def _adam(section: ConfigDict) -> optax.GradientTransformation:
  """Adam with both moments stored in ``moments_dtype``; optax supports it for the first only.

  The arithmetic is fp32, and optax casts the second moment back to its storage dtype.
  """
  dtype = jnp.dtype(section.moments_dtype)
  adam = optax.scale_by_adam(section.b1, section.b2, section.eps, mu_dtype=dtype)

  def init(params):
    state = adam.init(params)
    return state._replace(nu=optax.tree.cast(state.nu, dtype))

  return optax.GradientTransformation(init, adam.update)
