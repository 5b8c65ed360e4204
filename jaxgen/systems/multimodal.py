"""Systems whose prompt is read by a multimodal language model."""

import dataclasses
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Layout
from jaxgen.core.types import Params
from jaxgen.core.types import Prompt
from jaxgen.models.bridges.queries import place_queries
from jaxgen.models.denoisers.base import LATENT_PATCH
from jaxgen.systems import parts
from jaxgen.systems.base import System


def layout_of(config: ConfigDict, models: Mapping[str, nn.Module],
              patch: int = LATENT_PATCH) -> Layout:
  """What the data pipeline must know of the models.

  Args:
    config: of the run.
    models: with ``mllm``, ``autoencoder`` and perhaps ``bridge``, whose queries follow a prompt.
    patch: latent pixels along a token of the denoiser.

  Raises:
    UserError: images are not prepared at the size that the vision tower reads.
  """
  mllm = models['mllm']
  if mllm.sees.kind == 'square':
    parts.check_equal('data.vision_size', config.data.vision_size,
                      'config.model.mllm.vision.image_size', mllm.sees.size)
  return Layout(
      latent=parts.latent_layout(models['autoencoder'], patch), vision=mllm.sees,
      queries=models['bridge'].config.queries if 'bridge' in models else 0,
      scheme=config.data.scheme, dialect=config.data.dialect, vocab=mllm.config.text.vocab)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultimodalSystem(System):
  """A ``System`` with a language model in the group ``mllm``.

  Learned queries behind its prompts are those of the group ``bridge``, where there is one; the
  group ``connector``, where there is one, maps its states to what the denoiser reads.

  Attributes:
    guidance: the scale that a guidance-distilled denoiser is told.
  """

  guidance: float

  def image_tokens(self, params: Params, prompt: Prompt) -> jax.Array:
    """f[B, T, D]: what the vision tower of ``mllm`` makes of the images of every row."""
    return self._run('mllm', params, prompt, method='image_tokens')

  def prompt_states(self, params: Params, batch: Batch, mask_ratio: float = 0.0,
                    rng: jax.Array | None = None, all_layers: bool = False) -> jax.Array:
    """States of the language model over prompts and queries.

    Args:
      params: of ``mllm`` and ``bridge``.
      batch: packed rows.
      mask_ratio, rng: of maskable images, see ``parts.embed``.
      all_layers: return every layer.

    Returns:
      f[B, S, D] behind the final norm, or f[layers + 1, B, S, D], see ``CausalLM.decode``.
    """
    prompt, groups = batch.prompt, batch.meta.sample_ids.shape[1]
    embeddings = parts.embed(self.models['mllm'], params['mllm'], batch, mask_ratio, rng)
    if 'bridge' in self.models:
      # A bridge reads the prompt proper, not the places of its own queries.
      words = jnp.where(prompt.query_index < 0, prompt.segments, 0)
      queries = self._run('bridge', params, embeddings, words, groups)  # [B, G, Q, D]
      embeddings = place_queries(embeddings, queries, prompt.segments, prompt.query_index)
    return self._run('mllm', params, embeddings, prompt.positions, prompt.segments, all_layers,
                     method='decode')

  def connected(self, params: Params, batch: Batch) -> Conditioning:
    """The states that the connector reads, mapped by it."""
    states = self.prompt_states(params, batch, all_layers=self.models['connector'].all_layers)
    states = self._run('connector', params, states, batch.prompt.segments)
    return self.conditioning_of(states, batch)

  def conditioning_of(self, states: jax.Array, batch: Batch) -> Conditioning:
    """The shown states f[B, S, D], and the vectors that the denoiser takes besides.

    A pooled prompt vector is zero: the language model has none.
    """
    denoiser, shape = self.models['denoiser'], batch.meta.sample_ids.shape  # [B, G]
    pooled = jnp.zeros((*shape, denoiser.pooled_dim)) if denoiser.pooled_dim else None
    guidance = jnp.full(shape, self.guidance) if denoiser.takes_guidance else None
    prompt = batch.prompt
    return Conditioning(states, prompt.state_positions,
                        jnp.where(prompt.shown, prompt.segments, 0), pooled, guidance)

  def hidden(self, params: Params, batch: Batch) -> jax.Array:
    """f[B, S, D], what ``head`` reads."""
    prompt = batch.prompt
    embeddings = parts.embed(self.models['mllm'], params['mllm'], batch)
    return self._run('mllm', params, embeddings, prompt.positions, prompt.segments,
                     method='decode')

  def head(self, params: Params, hidden: jax.Array) -> jax.Array:
    """Logits f32[..., V] of f[..., D]."""
    return self._run('mllm', params, hidden, method='logits')
