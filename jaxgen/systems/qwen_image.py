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
from jaxgen.core.types import Params
from jaxgen.data.sample import Sample
from jaxgen.systems import parts
from jaxgen.systems.base import Branches
from jaxgen.systems.multimodal import layout_of
from jaxgen.systems.multimodal import MultimodalSystem


@dataclasses.dataclass(frozen=True, kw_only=True)
class QwenImage(MultimodalSystem):
  """The composition; see ``System`` for the methods.

  Attributes:
    mask_ratio: probability that a token of a self-conditioning image is hidden (L089, L093).
    negative_prompt: the words of guidance's second branch, which keeps the images.
  """

  mask_ratio: float
  negative_prompt: str

  reads = {'condition': ('mllm',), 'denoise': ('denoiser',), 'hidden': ('mllm',),
           'head': ('mllm',), 'encode': ('autoencoder',)}

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'QwenImage':
    models = parts.build(config, ('mllm', 'denoiser', 'autoencoder'))
    layout = layout_of(config, models)
    parts.check_equal('model.denoiser.cond_dim', models['denoiser'].config.cond_dim,
                      'config.model.mllm.text.width', models['mllm'].config.text.width)
    parts.check_latents(config, models['denoiser'], layout.latent)
    return cls(models=models, layout=layout, guidance=config.model.guidance,
               mask_ratio=config.model.mask_ratio,
               negative_prompt=config.sampling.negative_prompt or config.data.empty_prompt)

  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """States of the prompt behind its cropped head."""
    return self.conditioning_of(self.prompt_states(params, batch, self.mask_ratio, rng), batch)

  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    return parts.text_branches(sample, scales['text'], 'text', self.negative_prompt)
