"""Qwen-Image and its Edit models: a frozen Qwen2.5-VL tells a dual-stream MMDiT what to draw.

The language model reads the instruction, and the given images where there are some, in a template
whose head is cropped from what the denoiser is told. Given images are clean latents beside the
target too; t of the positions numbers the target, then them. The releases differ in data alone: the
template (``data.dialect``), the sizes of given images, and since 2511 the time of clean tokens.
"""

import dataclasses
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Layout
from jaxgen.core.types import Params
from jaxgen.core.types import Vision
from jaxgen.data.sample import Sample
from jaxgen.systems import parts
from jaxgen.systems.base import Branches
from jaxgen.systems.base import System


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenImage(System):
  """The composition; see ``System`` for the methods.

  Attributes:
    mask_ratio: probability that a token of a self-conditioning image is hidden (L089, L093).
    negative_prompt: the words of guidance's second branch, which keeps the images.
  """

  mask_ratio: float
  negative_prompt: str

  reads = {'condition': ('mllm',), 'denoise': ('denoiser',), 'encode': ('autoencoder',)}

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'QwenImage':
    models = parts.build(config, ('mllm', 'denoiser', 'autoencoder'))
    tower, latent = models['mllm'].config.vision, parts.latent_layout(models['autoencoder'])
    parts.check_equal('model.denoiser.cond_dim', models['denoiser'].config.cond_dim,
                      'config.model.mllm.text.width', models['mllm'].config.text.width)
    parts.check_latents(config, models['denoiser'], latent)
    return cls(
        models=models, mask_ratio=config.model.mask_ratio,
        negative_prompt=config.sampling.negative_prompt or config.data.empty_prompt,
        layout=Layout(latent=latent, vision=Vision('native', tower.patch_size, tower.merge),
                      scheme=config.data.scheme, dialect=config.data.dialect))

  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """States of the prompt behind its cropped head."""
    prompt = batch.prompt
    embedded = parts.embed(self.models['mllm'], params['mllm'], batch, self.mask_ratio, rng)
    states = self._run('mllm', params, embedded, prompt.positions, prompt.segments,
                       method='decode')  # [B, S, D]
    return parts.shown(states, prompt)

  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    return parts.text_branches(sample, scales['text'], 'text', self.negative_prompt)
