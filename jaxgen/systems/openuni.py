"""OpenUni: a frozen InternVL3, 256 queries, a six-layer connector, and SANA (L143).

The prompt ends with the token that begins an image; the queries behind it are what the language
model fills. Their states alone pass the connector, in which they see each other in both directions,
and condition SANA. A latent token is one pixel of the deep-compression autoencoder.
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
from jaxgen.data.sample import Sample
from jaxgen.systems import parts
from jaxgen.systems.base import Branches
from jaxgen.systems.multimodal import layout_of
from jaxgen.systems.multimodal import MultimodalSystem

PATCH = 1  # latent pixels along a token


@dataclasses.dataclass(frozen=True, kw_only=True)
class OpenUni(MultimodalSystem):
  """The composition; see ``System`` for the methods.

  Attributes:
    mask_ratio: probability that a token of a self-conditioning image is hidden (L089, L093).
    negative_prompt: the words of guidance's branch without condition.
  """

  mask_ratio: float
  negative_prompt: str

  reads = {'condition': ('mllm', 'bridge', 'connector'), 'denoise': ('denoiser',),
           'hidden': ('mllm',), 'head': ('mllm',), 'encode': ('autoencoder',)}

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'OpenUni':
    models = parts.build(config, ('mllm', 'bridge', 'connector', 'denoiser', 'autoencoder'))
    layout = layout_of(config, models, PATCH)
    _check(config, models, layout)
    return cls(models=models, layout=layout, guidance=config.model.guidance,
               mask_ratio=config.model.mask_ratio,
               negative_prompt=config.sampling.negative_prompt or config.data.empty_prompt)

  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """Connected states of the queries."""
    prompt = batch.prompt
    states = self.prompt_states(params, batch, self.mask_ratio, rng)  # [B, S, D]
    queries = jnp.where(prompt.query_index >= 0, prompt.segments, 0)
    return self.conditioning_of(self._run('connector', params, states, queries), batch)

  def encode(self, params: Params, images: jax.Array) -> jax.Array:
    return parts.encode(self.models['autoencoder'], params.get('autoencoder', {}), images, PATCH)

  def decode(self, params: Params, tokens: jax.Array, grid: tuple[int, int]) -> jax.Array:
    return parts.decode(self.models['autoencoder'], params.get('autoencoder', {}), tokens, grid,
                        PATCH)

  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    return parts.text_branches(sample, scales['text'], 'all', self.negative_prompt)


def _check(config: ConfigDict, models, layout: Layout) -> None:
  parts.check_equal('model.bridge.width', models['bridge'].config.width,
                    'config.model.mllm.text.width', models['mllm'].config.text.width)
  parts.check_connector(models)
  parts.check_latents(config, models['denoiser'], layout.latent)
  if config.data.shown != 'queries':
    raise user_error('config.data.shown', config.data.shown, 'must be queries: the connector reads '
                     'them alone')
