"""One training step of ours with AdamW, for the benchmarks."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from timing import ADAMW
from timing import RATE


def jaxgen_step(loss: Callable[..., jax.Array], trained: Any, *given: Any
                ) -> Callable[[], float]:
  """A function that runs one donated training step and returns its loss.

  Args:
    loss: f32[] of ``(trained, *given)``.
    trained: pytree of the parameters that train.
    given: pytrees of what stays: frozen parameters and the batch.
  """
  optimizer = optax.adamw(RATE, **ADAMW)
  trained, given = jax.tree.map(jnp.asarray, (trained, given))

  @functools.partial(jax.jit, donate_argnums=(0, 1))
  def train(trained, state, *given):
    value, gradient = jax.value_and_grad(loss)(trained, *given)
    updates, state = optimizer.update(gradient, state, trained)
    return optax.apply_updates(trained, updates), state, value

  held = [trained, jax.jit(optimizer.init)(trained)]

  def step():
    *held[:], value = train(*held, *given)
    jax.block_until_ready(held)
    return float(value)

  return step
