"""IOMM: a frozen InternVL, the residual query adapter, and a FLUX-shaped MMDiT or Z-Image (XL).

Image-only samples condition on themselves: the prompt asks for an identical image and shows it,
with most of its tokens masked (paper section 3). Pairs condition on their caption. Both go
through the same frozen language model; the adapter's queries stand behind the prompt.
"""

import dataclasses
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Layout
from jaxgen.core.types import Params
from jaxgen.data.sample import Sample
from jaxgen.systems import parts
from jaxgen.systems.base import Branches
from jaxgen.systems.multimodal import layout_of
from jaxgen.systems.multimodal import MultimodalSystem


@dataclasses.dataclass(frozen=True, kw_only=True)
class IOMM(MultimodalSystem):
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
    layout = layout_of(config, models)
    _check(config, models, layout)
    return cls(models=models, layout=layout, guidance=config.model.guidance,
               mask_ratio=config.model.mask_ratio,
               negative_prompt=config.sampling.negative_prompt or config.data.empty_prompt)

  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """States of the frozen MLLM over prompt and queries (L087, L088)."""
    states = self.prompt_states(params, batch, self.mask_ratio, rng)  # [B, S, D]
    return self.conditioning_of(states, batch)

  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    return parts.text_branches(sample, scales['text'], 'all', self.negative_prompt)


def _check(config: ConfigDict, models, layout: Layout) -> None:
  width, name = models['mllm'].config.text.width, 'config.model.mllm.text.width'
  parts.check_equal('model.bridge.width', models['bridge'].config.width, name, width)
  parts.check_equal('model.denoiser.cond_dim', models['denoiser'].config.cond_dim, name, width)
  parts.check_latents(config, models['denoiser'], layout.latent)
