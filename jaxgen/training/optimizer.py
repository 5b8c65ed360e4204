"""AdamW and Muon, learning-rate schedules and the clip by global norm."""

import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.sharding.rules import with_changes
from jaxgen.training import muon


def make_schedule(config: ConfigDict) -> optax.Schedule:
  """Learning rate by the number of updates done: warm-up from 0, then constant or cosine to 0.

  The first update of a warm-up over ``w`` steps has ``1 / w`` of the rate, the ``w``-th all of it.
  """
  section = config.optimizer
  rate, warmup = section.learning_rate, section.warmup_steps
  if section.schedule == 'constant':
    after = optax.constant_schedule(rate)
  else:
    after = optax.cosine_decay_schedule(rate, max(config.train.steps - warmup, 1))
  if not warmup:
    return after
  # Not optax.warmup_cosine_decay_schedule, whose first update would have a rate of 0.
  before = optax.linear_schedule(rate / warmup, rate, warmup - 1)
  return optax.join_schedules([before, after], [warmup])


def make_optimizer(config: ConfigDict, axes: trees.Tree) -> optax.GradientTransformation:
  """The optimizer of ``config.optimizer`` for parameters with these logical axes.

  Args:
    config: the whole config; the schedule needs ``train.steps``, Muon ``mesh.rules`` and
      ``model.compute_dtype``.
    axes: tree of tuples of logical names of the parameters that train.
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
  """Both moments stored in ``moments_dtype``; optax has an argument for the first alone.

  The arithmetic is fp32, and optax casts the second moment back to what it was stored in.
  """
  dtype = jnp.dtype(section.moments_dtype)
  adam = optax.scale_by_adam(section.b1, section.b2, section.eps, mu_dtype=dtype)

  def init(params):
    state = adam.init(params)
    return state._replace(nu=optax.tree.cast(state.nu, dtype))

  return optax.GradientTransformation(init, adam.update)
