"""Systems whose prompt is read by a multimodal language model, with learned queries behind it."""

import jax
import jax.numpy as jnp

from jaxgen.core.types import Batch
from jaxgen.core.types import Params
from jaxgen.models.bridges.queries import place_queries
from jaxgen.systems import parts
from jaxgen.systems.base import System


class MultimodalSystem(System):
  """A ``System`` with a language model in the group ``mllm`` and its queries in ``bridge``."""

  def prompt_states(self, params: Params, batch: Batch, mask_ratio: float = 0.0,
                    rng: jax.Array | None = None) -> jax.Array:
    """States f[B, S, D] of the language model over prompts and queries.

    Args:
      params: of ``mllm`` and ``bridge``.
      batch: packed rows.
      mask_ratio, rng: of maskable images, see ``parts.embed``.
    """
    prompt, groups = batch.prompt, batch.meta.sample_ids.shape[1]
    embeddings = parts.embed(self.models['mllm'], params['mllm'], batch, mask_ratio, rng)
    # A bridge reads the prompt proper, not the places of its own queries.
    words = jnp.where(prompt.query_index < 0, prompt.segments, 0)
    queries = self._run('bridge', params, embeddings, words, groups)  # [B, G, Q, D]
    embeddings = place_queries(embeddings, queries, prompt.segments, prompt.query_index)
    return self._run('mllm', params, embeddings, prompt.positions, prompt.segments,
                     method='decode')

  def hidden(self, params: Params, batch: Batch) -> jax.Array:
    """f[B, S, D], what ``head`` reads."""
    prompt = batch.prompt
    embeddings = parts.embed(self.models['mllm'], params['mllm'], batch)
    return self._run('mllm', params, embeddings, prompt.positions, prompt.segments,
                     method='decode')

  def head(self, params: Params, hidden: jax.Array) -> jax.Array:
    """Logits f32[..., V] of f[..., D]."""
    return self._run('mllm', params, hidden, method='logits')

  def no_pooled(self, batch: Batch) -> jax.Array | None:
    """Zeros for denoisers that take a pooled prompt vector too: the MLLM has none."""
    size = self.models['denoiser'].pooled_dim
    return jnp.zeros((*batch.meta.sample_ids.shape, size), jnp.float32) if size else None
