"""The train step, shared by every system, stage and objective."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from ml_collections import ConfigDict

from jaxgen.core import trees
from jaxgen.core.types import Batch
from jaxgen.core.types import Params
from jaxgen.objectives.registry import Objectives
from jaxgen.sharding import memory
from jaxgen.sharding import partition
from jaxgen.sharding.rules import Rules
from jaxgen.sharding.rules import with_changes
from jaxgen.systems.base import System
from jaxgen.training.optimizer import make_schedule
from jaxgen.training.state import Blueprint
from jaxgen.training.state import TrainState
from jaxgen.training.state import shardings
from jaxgen.training.zero import gathered
from jaxgen.training.zero import scattered

TrainStep = Callable[[TrainState, Params, Batch], tuple[TrainState, dict[str, Any]]]


def make_train_step(config: ConfigDict, system: System, objectives: Objectives,
                    optimizer: optax.GradientTransformation) -> TrainStep:
  """Builds ``train_step(state, frozen, batch) -> (state, metrics)``, not yet compiled.

  The loss is ``sum_k weight_k * loss_sum_k / weight_sum_k`` over the objectives ``k``. Both sums
  run over the whole global batch and every random number is keyed by row, so the loss depends
  neither on devices and hosts nor on ``config.train.accumulate``. A step whose loss or gradient is
  not finite is skipped: it updates only the counters.

  Args:
    config: reads ``optimizer``, ``train.accumulate``, ``train.zero`` and ``mesh.rules``.
    system: passed to the objectives.
    objectives: name -> (objective, weight).
    optimizer: updates the trainable parameters.
  """
  schedule, decay = make_schedule(config), config.optimizer.ema_decay
  fetch = memory.on_device if config.optimizer.memory == 'host' else lambda tree: tree
  table = with_changes(config.mesh.rules)

  def train_step(state, frozen, batch):
    # One key per step: objectives key random numbers by row, so micro-batches can share it.
    rng = jax.random.fold_in(jax.random.wrap_key_data(state.rng), state.step)
    parts = micro_batches(batch, config.train.accumulate)
    # A batch may by chance have no samples for a term; its zero weight must not divide by zero.
    totals = {name: jnp.maximum(objective.weight(batch), 1e-6)
              for name, (objective, _) in objectives.items()}

    def loss_of(params, part):
      params = trees.merge(params, frozen)
      loss, terms = 0.0, {}
      for index, (name, (objective, weight)) in enumerate(objectives.items()):
        total, terms[name] = objective(system, params, part, jax.random.fold_in(rng, index))
        loss += weight * total / totals[name]
      return loss, terms

    if config.train.zero == 2:
      axes = system.axes(tuple(state.params))
      loss, terms, grads = accumulated(
          loss_of, gathered(state.params, axes, table), parts,
          lambda new: scattered(new, axes, table))
    else:
      loss, terms, grads = accumulated(loss_of, state.params, parts)
    norm = optax.global_norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(norm)
    old_opt_state, old_ema = fetch((state.opt_state, state.ema))
    updates, opt_state = optimizer.update(grads, old_opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = jax.tree.map(lambda mean, new: decay * mean + (1 - decay) * new, old_ema,
                       params if decay else {})
    params, opt_state, ema = jax.tree.map(
        lambda new, old: jnp.where(finite, new, old),
        (params, opt_state, ema), (state.params, old_opt_state, old_ema))
    metrics = dict(loss=loss, grad_norm=norm, terms=terms, finite=finite,
                   update_norms=norms(updates), param_norms=norms(params),
                   learning_rate=schedule(state.step - state.skipped), **counts(batch))
    state = state.replace(
        step=state.step + 1, params=params, opt_state=opt_state, ema=ema,
        skipped=state.skipped + ~finite,
        skipped_in_a_row=jnp.where(finite, 0, state.skipped_in_a_row + 1))
    return state, metrics | dict(skipped=state.skipped, skipped_in_a_row=state.skipped_in_a_row)

  return train_step


@dataclasses.dataclass(frozen=True)
class CompiledStep:
  """A train step for one mesh and table of logical axes; compiles on the first call."""

  jitted: Any
  mesh: Mesh
  table: Rules

  def __call__(self, state: TrainState, frozen: Params, batch: Batch):
    with partition.scope(self.mesh, self.table):
      return self.jitted(state, frozen, batch)

  def lower(self, state: TrainState, frozen: Params, batch: Batch) -> jax.stages.Lowered:
    """Lowers the step without compiling it; arguments may be abstract."""
    with partition.scope(self.mesh, self.table):
      return self.jitted.lower(state, frozen, batch)


def compile_step(train_step: TrainStep, blueprint: Blueprint,
                 rows: NamedSharding) -> CompiledStep:
  """Jits the step with the run's shardings; the old state is donated.

  Args:
    train_step: the step from ``make_train_step``.
    blueprint: the run's blueprint.
    rows: sharding of the batch.
  """
  state = shardings(blueprint.state)
  jitted = jax.jit(
      train_step, in_shardings=(state, shardings(blueprint.frozen), rows),
      out_shardings=(state, partition.replicated(rows.mesh)), donate_argnums=0)
  return CompiledStep(jitted, rows.mesh, blueprint.table)


def micro_batches(batch: Batch, count: int) -> Batch:
  """Splits rows ``[B, ...]`` into ``[count, B / count, ...]`` without moving data between devices:
  a micro-batch takes every ``count``-th row, so each device holds its share."""
  return jax.tree.map(
      lambda leaf: leaf.reshape(leaf.shape[0] // count, count, *leaf.shape[1:]).swapaxes(0, 1),
      batch)


def norms(params: Params) -> dict[str, jax.Array]:
  """Group -> L2 norm of all of its arrays, f32[]. Groups without arrays are left out."""
  return {group: optax.global_norm(tree) for group, tree in params.items() if jax.tree.leaves(tree)}


def counts(batch: Batch) -> dict[str, jax.Array]:
  """Sample ids, number of images and tokens, and share of padding of the global batch."""
  visual, prompt = batch.visual.segments > 0, (batch.conditioning or batch.prompt).segments > 0
  return dict(sample_ids=batch.meta.sample_ids, images=jnp.sum(batch.meta.sample_ids != -1),
              tokens=jnp.sum(visual) + jnp.sum(prompt),
              padding=jnp.sum(~visual) / max(visual.size, 1))


def accumulated(loss_of: Callable[..., Any], params: Params, parts: Any,
                place: Callable[[Params], Params] = lambda grads: grads
                ) -> tuple[Any, Any, Params]:
  """Sums ``(loss, terms, gradients)`` over the micro-batches, one at a time.

  ``place`` constrains the sharding of each micro-batch's gradients.
  """
  def add(grads, part):
    (loss, terms), new = jax.value_and_grad(loss_of, has_aux=True)(params, part)
    return jax.tree.map(jnp.add, grads, place(new)), (loss, terms)

  grads, sums = jax.lax.scan(add, place(jax.tree.map(jnp.zeros_like, params)), parts)
  loss, terms = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), sums)
  return loss, terms, grads
