"""Stacks of scanned blocks, and what their backward pass recomputes instead of storing."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core.errors import user_error
from jaxgen.models.layers.attention import SAVED
from jaxgen.sharding.memory import HOST

# Roles of the projections beside attention and behind the MLP, see ``Linear``; the hidden units of
# the MLP, four times as wide as any of them, are left out.
PROJECTIONS = ('q', 'k', 'v', 'out', 'down')

# What a block keeps for its backward pass: everything, outputs of all matmuls, attention and the
# projections, those in host memory, nothing but its input. Each keeps less on the device and takes
# longer than the one before.
REMAT = {
    'none': None,
    'dots': jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(SAVED)),
    'attention': jax.checkpoint_policies.save_only_these_names(SAVED, *PROJECTIONS),
    'offload': jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=[], names_which_can_be_offloaded=[SAVED, *PROJECTIONS],
        offload_src='device', offload_dst=HOST),
    'full': jax.checkpoint_policies.nothing_saveable,
}


def check_scan(where: str, config: Any) -> None:
  """Refuses an unknown ``remat`` and an impossible ``unroll`` of the config section ``where``."""
  if config.remat not in REMAT:
    raise user_error(f'{where}remat', config.remat, f'must be one of {sorted(REMAT)}')
  if config.unroll < 1:
    raise user_error(f'{where}unroll', config.unroll, 'must be 1 or more')


def recomputed(block: type[nn.Module], remat: str) -> type[nn.Module]:
  """The block class under a policy of ``REMAT``."""
  if remat == 'none':
    return block
  return nn.remat(block, policy=REMAT[remat], prevent_cse=False)


def scanned(block: type[nn.Module], config: Any, length: int, in_axes: Any = nn.broadcast
            ) -> type[nn.Module]:
  """The block class as a scan over ``length`` blocks.

  Args:
    block: its ``__call__(carry, *inputs)`` returns ``(carry, output)``.
    config: its field ``remat`` is the policy of the blocks, and ``unroll`` the number of blocks per
      scan iteration: fewer iterations copy less of the stacked weights and gradients, which makes
      steps on a CPU faster, and take longer to compile.
    length: how many blocks; their parameters get a leading axis ``layers``.
    in_axes: which inputs are scanned; see ``nn.scan``.
  """
  return nn.scan(
      recomputed(block, config.remat), length=length, variable_axes={'params': 0},
      split_rngs={'params': True}, in_axes=in_axes,
      metadata_params={nn.PARTITION_NAME: 'layers'}, unroll=config.unroll)


def stack(block: type[nn.Module], config: Any, dtype: jnp.dtype, length: int, name: str
          ) -> Callable[..., Any]:
  """A function that runs ``length`` scanned blocks and returns the last carry.

  Args:
    block: called as ``block(config, dtype)(carry, *shared) -> (carry, None)``.
    config: of the blocks and their scan; see ``scanned``.
    dtype: of the computation.
    length: how many.
    name: of the stack in the parameter tree.
  """
  module = scanned(block, config, length)(config, dtype, name=name)
  return lambda carry, *shared: module(carry, *shared)[0]
