"""The objective contract: a loss summed over a batch, and the weight that normalises it."""

import abc
from typing import Any

import jax

from jaxgen.core.types import Batch
from jaxgen.core.types import Params

Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Objective(abc.ABC):
  """One term of the loss.

  Attributes:
    calls: methods of the system that the term calls; ``system.reads`` maps them to parameter
      groups.
  """

  calls: tuple[str, ...]

  @abc.abstractmethod
  def __call__(self, system: Any, params: Params, batch: Batch, rng: jax.Array
               ) -> tuple[jax.Array, Metrics]:
    """The loss summed over a batch.

    Args:
      system: a ``System``, which is not imported here because it belongs to a higher layer.
      params: the parameter groups that ``calls`` read.
      batch: a batch or a micro-batch; sums over micro-batches add up to the sum over the batch.
      rng: key of the step, the same for all micro-batches: random numbers are keyed by row.

    Returns:
      ``(loss_sum, {name: (sum, weight)})``, fp32 scalars.
    """

  @abc.abstractmethod
  def weight(self, batch: Batch) -> jax.Array:
    """Normaliser of the loss sum, an f32 scalar that depends on masks alone."""
