"""iMontage: many images in, many images out, drawn by HunyuanVideo's MMDiT in one pass.

Images are frames of a pseudo-video: each is encoded alone by the causal autoencoder, keeps its own
(h, w) and gets a time index by its role (Marginal RoPE, paper section 3.1). Clean references and
noisy targets share the image stream; a Llama tower and CLIP's pooled vector read the instruction.
"""

import dataclasses
from collections.abc import Mapping

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

SKIPPED = 2  # last blocks of the Llama tower that are left out: hidden_states[-3] (L134)
# NEGATIVE_PROMPT of the release's constants.py, HunyuanVideo's own (L135).
NEGATIVE_PROMPT = ('Aerial view, aerial view, overexposed, low quality, deformation, a poor '
                   'composition, bad hands, bad teeth, bad eyes, bad limbs, distortion')


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMontage(System):
  """The composition; see ``System`` for the methods.

  Attributes:
    guidance: the scale that the distilled denoiser is told; not that of its branches (L135).
    negative_prompt: the words of guidance's second branch, which keeps the references.
  """

  guidance: float
  negative_prompt: str

  reads = {'condition': ('text_encoder', 'text_encoder_2'), 'denoise': ('denoiser',),
           'encode': ('autoencoder',)}
  presets = {
      'released': {'model.guidance': 1.0, 'sampling.steps': 50, 'sampling.solver': 'euler',
                   'sampling.guidance': 6.0, 'sampling.timestep_shift': 7.0,
                   'sampling.negative_prompt': NEGATIVE_PROMPT},  # L135
      # The shift of training, and the prompt that its dropout leaves (L024, L029, L037).
      'paper': {'sampling.steps': 50, 'sampling.guidance': 6.0, 'sampling.timestep_shift': 5.0,
                'sampling.negative_prompt': ''},
  }

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'IMontage':
    models = parts.build(config, ('text_encoder', 'text_encoder_2', 'denoiser', 'autoencoder'))
    layout = Layout(
        latent=parts.latent_layout(models['autoencoder']), scheme=config.data.scheme, dialect='',
        towers=FrozenDict(text_encoder=Text('llama', length=config.data.prompt_tokens),
                          text_encoder_2=Text('clip', models['text_encoder_2'].config.positions)))
    _check(config, models, layout)
    return cls(models=models, layout=layout, guidance=config.model.guidance,
               negative_prompt=config.sampling.negative_prompt or config.data.empty_prompt)

  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """Llama states of each instruction, CLIP's pooled vector and the guidance scale."""
    states = parts.read_tower(self.models['text_encoder'], params['text_encoder'],
                              batch.towers['text_encoder'], skip=SKIPPED)
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
