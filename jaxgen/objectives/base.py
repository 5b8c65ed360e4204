"""The objective contract: a loss summed over a batch, and the weight that it is divided by."""

import abc
from typing import Any

import jax

from jaxgen.core.types import Batch
from jaxgen.core.types import Params

Metrics = dict[str, tuple[jax.Array, jax.Array]]


class Objective(abc.ABC):
  """One term of the loss.

  Attributes:
    calls: methods of the system that the term calls; the system says which groups of parameters
      these read.
  """

  calls: tuple[str, ...]

  @abc.abstractmethod
  def __call__(self, system: Any, params: Params, batch: Batch, rng: jax.Array
               ) -> tuple[jax.Array, Metrics]:
    """The loss of a batch.

    Args:
      system: a ``System``; a floor above, hence not named here.
      params: the groups that ``calls`` read.
      batch: whole or a part of one; the sums of the parts are the sum of the whole.
      rng: key of the step, the same for all parts: what is drawn is keyed by row.

    Returns:
      ``(loss_sum, {name: (sum, weight)})``, fp32 scalars.
    """

  @abc.abstractmethod
  def weight(self, batch: Batch) -> jax.Array:
    """f32 scalar, what the loss sums of all parts are divided by; read from masks alone."""
