"""IOMM: a frozen InternVL, the residual query adapter, and a FLUX-shaped MMDiT or Z-Image (XL).

Image-only samples condition on themselves: the prompt asks for an identical image and shows it,
with most of its tokens masked (paper section 3). Pairs condition on their caption. Both go
through the same frozen language model; the adapter's queries stand behind the prompt.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Layout
from jaxgen.core.types import Params
from jaxgen.core.types import Vision
from jaxgen.data.sample import Sample
from jaxgen.models.bridges.queries import place_queries
from jaxgen.systems import parts
from jaxgen.systems.base import Branches
from jaxgen.systems.base import System


@dataclasses.dataclass(frozen=True, kw_only=True)
class IOMM(System):
  """The composition; see ``System`` for the methods.

  Attributes:
    mask_ratio: probability that a token of a self-conditioning image is hidden (L091, A18).
    negative_prompt: the words of guidance's branch without condition.
  """

  mask_ratio: float
  negative_prompt: str

  reads = {'condition': ('mllm', 'bridge'), 'denoise': ('denoiser',), 'hidden': ('mllm',),
           'head': ('mllm',), 'encode': ('autoencoder',)}

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'IOMM':
    models = parts.build(config, ('mllm', 'bridge', 'denoiser', 'autoencoder'))
    tower = models['mllm'].config.vision
    layout = Layout(
        latent=parts.latent_layout(models['autoencoder']),
        vision=Vision('square', tower.patch_size, models['mllm'].config.shuffle,
                      tower.image_size),
        queries=models['bridge'].config.queries,
        scheme=config.data.scheme, dialect=config.data.dialect)
    _check(config, models, layout)
    return cls(models=models, layout=layout, mask_ratio=config.model.mask_ratio,
               negative_prompt=config.sampling.negative_prompt or config.data.empty_prompt)

  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """States of the frozen MLLM over prompt and queries (L087, L088)."""
    prompt, groups = batch.prompt, batch.meta.sample_ids.shape[1]
    embeddings = parts.embed(self.models['mllm'], params['mllm'], batch, self.mask_ratio, rng)
    # The adapter reads the prompt proper, not the places of its own queries.
    words = jnp.where(prompt.query_index < 0, prompt.segments, 0)
    queries = self._run('bridge', params, embeddings, words, groups)  # [B, G, Q, D]
    embeddings = place_queries(embeddings, queries, prompt.segments, prompt.query_index)
    states = self._run('mllm', params, embeddings, prompt.positions, prompt.segments,
                       method='decode')  # [B, S, D]
    return parts.shown(states, prompt, self._pooled(batch))

  def hidden(self, params: Params, batch: Batch) -> jax.Array:
    """f[B, S, D], what ``head`` reads."""
    prompt = batch.prompt
    embeddings = parts.embed(self.models['mllm'], params['mllm'], batch)
    return self._run('mllm', params, embeddings, prompt.positions, prompt.segments,
                     method='decode')

  def head(self, params: Params, hidden: jax.Array) -> jax.Array:
    """Logits f32[..., V] of f[..., D]."""
    return self._run('mllm', params, hidden, method='logits')

  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    return parts.text_branches(sample, scales['text'], 'all', self.negative_prompt)

  def _pooled(self, batch: Batch) -> jax.Array | None:
    """Zeros for denoisers that take a pooled prompt vector too: the MLLM has none."""
    size = self.models['denoiser'].pooled_dim
    return jnp.zeros((*batch.meta.sample_ids.shape, size), jnp.float32) if size else None


def _check(config: ConfigDict, models, layout: Layout) -> None:
  width, name = models['mllm'].config.text.width, 'config.model.mllm.text.width'
  parts.check_equal('model.bridge.width', models['bridge'].config.width, name, width)
  parts.check_equal('model.denoiser.cond_dim', models['denoiser'].config.cond_dim, name, width)
  parts.check_equal('model.denoiser.in_channels', models['denoiser'].config.in_channels,
                    'the channels of a latent token', layout.latent.channels)
  parts.check_vision(config, layout.vision)
  if config.data.image_size % layout.latent.factor:
    raise user_error('config.data.image_size', config.data.image_size,
                     f'must be a multiple of {layout.latent.factor}')
