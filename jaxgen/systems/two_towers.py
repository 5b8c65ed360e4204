"""Systems whose words are read by two frozen text towers: states of one, a CLIP's pooled vector."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from ml_collections import ConfigDict

from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Layout
from jaxgen.core.types import Params
from jaxgen.core.types import Text
from jaxgen.data.sample import Sample
from jaxgen.systems import parts
from jaxgen.systems.base import Branches
from jaxgen.systems.base import System


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoTowerSystem(System):
  """A ``System`` with the states of ``text_encoder`` and the vector of ``text_encoder_2``.

  Attributes:
    guidance: the scale that a guidance-distilled denoiser is told.
    negative_prompt: the words of the branch that guidance leads away from.
    dialect: of the prompts of ``text_encoder``.
    skipped: its last blocks, which are left out.
  """

  guidance: float
  negative_prompt: str
  dialect: ClassVar[str]
  skipped: ClassVar[int] = 0

  reads = {'condition': ('text_encoder', 'text_encoder_2'), 'denoise': ('denoiser',),
           'encode': ('autoencoder',)}

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'TwoTowerSystem':
    """See ``System``."""
    models = parts.build(config, ('text_encoder', 'text_encoder_2', 'denoiser', 'autoencoder'))
    layout = Layout(
        latent=parts.latent_layout(models['autoencoder']), scheme=config.data.scheme, dialect='',
        towers=FrozenDict(text_encoder=Text(cls.dialect, length=config.data.prompt_tokens),
                          text_encoder_2=Text('clip', models['text_encoder_2'].config.positions)))
    _check(config, models, layout)
    return cls(models=models, layout=layout, guidance=config.model.guidance,
               negative_prompt=config.sampling.negative_prompt or config.data.empty_prompt)

  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """States of each prompt, its pooled vector and the guidance scale."""
    options = {'skip': self.skipped} if self.skipped else {}
    states = parts.read_tower(self.models['text_encoder'], params['text_encoder'],
                              batch.towers['text_encoder'], **options)
    pooled = parts.read_pooled(self.models['text_encoder_2'], params['text_encoder_2'],
                               batch.towers['text_encoder_2'])  # [B, G, Dp]
    told = self.models['denoiser'].takes_guidance
    return states.replace(pooled=pooled, guidance=jnp.full(pooled.shape[:2], self.guidance)
                          if told else None)

  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    return parts.text_branches(sample, scales['text'], 'text', self.negative_prompt)


def _check(config: ConfigDict, models, layout: Layout) -> None:
  denoiser = models['denoiser'].config
  parts.check_equal('model.denoiser.cond_dim', denoiser.cond_dim,
                    'config.model.text_encoder.width', models['text_encoder'].config.width)
  parts.check_equal('model.denoiser.pooled_dim', denoiser.pooled_dim,
                    'config.model.text_encoder_2.width', models['text_encoder_2'].config.width)
  parts.check_latents(config, models['denoiser'], layout.latent)
