"""Z-Image: a Qwen3 tower tells a single-stream transformer what to draw (L142).

The instruction is a chat turn of the user behind which the assistant's is opened; the denoiser is
told the states before the tower's last block. Captions and images are filled up to a multiple of 32
with learned pads. Z-Image-Turbo is the same model, distilled to a few steps without guidance.
"""

import dataclasses
from collections.abc import Mapping

import jax
from flax.core import FrozenDict
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Layout
from jaxgen.core.types import Params
from jaxgen.core.types import Text
from jaxgen.data.sample import Sample
from jaxgen.models.denoisers.z_image import MULTIPLE
from jaxgen.systems import parts
from jaxgen.systems.base import Branches
from jaxgen.systems.base import System

SKIPPED = 1  # last block of the tower: hidden_states[-2]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZImage(System):
  """The composition; see ``System`` for the methods.

  Attributes:
    negative_prompt: the words of guidance's second branch.
  """

  negative_prompt: str

  reads = {'condition': ('text_encoder',), 'denoise': ('denoiser',), 'encode': ('autoencoder',)}

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'ZImage':
    models = parts.build(config, ('text_encoder', 'denoiser', 'autoencoder'))
    latent = parts.latent_layout(models['autoencoder'])
    length = config.data.prompt_tokens
    if length % MULTIPLE:
      raise user_error('config.data.prompt_tokens', length, f'must be a multiple of {MULTIPLE}, '
                       'which learned pads fill captions up to')
    parts.check_equal('model.denoiser.cond_dim', models['denoiser'].config.cond_dim,
                      'config.model.text_encoder.width', models['text_encoder'].config.width)
    parts.check_latents(config, models['denoiser'], latent)
    return cls(
        models=models, negative_prompt=config.sampling.negative_prompt or config.data.empty_prompt,
        layout=Layout(latent=dataclasses.replace(latent, multiple=MULTIPLE),
                      scheme=config.data.scheme, dialect='',
                      towers=FrozenDict(text_encoder=Text('qwen3_chat', length, MULTIPLE))))

  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """States of each caption in its chat turn, and the pads behind them."""
    return parts.read_tower(self.models['text_encoder'], params['text_encoder'],
                            batch.towers['text_encoder'], skip=SKIPPED)

  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    return parts.text_branches(sample, scales['text'], 'text', self.negative_prompt)
