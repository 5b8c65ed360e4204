"""What the backward pass of a scanned block recomputes instead of storing."""

import flax.linen as nn
import jax

from jaxgen.core.errors import user_error
from jaxgen.models.layers.attention import SAVED

REMAT = {
    'none': None,
    'dots': jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(SAVED)),
    'full': jax.checkpoint_policies.nothing_saveable,
}


def check_remat(where: str, remat: str) -> None:
  """Refuses an unknown policy of the config field ``where``."""
  if remat not in REMAT:
    raise user_error(where, remat, f'must be one of {sorted(REMAT)}')


def recomputed(block: type[nn.Module], remat: str) -> type[nn.Module]:
  """The block class under a policy: all but matrix products and attention (``dots``), ``full``."""
  if remat == 'none':
    return block
  return nn.remat(block, policy=REMAT[remat], prevent_cse=False)
