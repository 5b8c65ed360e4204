"""Query-Kontext: Qwen2.5-VL with kontext queries tells an MMDiT, through a connector, what to draw.

The language model reads the instruction and every given image at its own size; the states of its
words and of the learned kontext tokens behind them pass one connector and stand beside the latent
tokens (paper section 3.1). From stage 3 on the denoiser gets the given images as clean latents
too, at shifted positions that tell a source from a reference.
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
class QueryKontext(MultimodalSystem):
  """The composition; see ``System`` for the methods.

  Attributes:
    negative_prompt: the words of guidance's branches without instruction.
  """

  negative_prompt: str

  reads = {'condition': ('mllm', 'bridge', 'connector'), 'denoise': ('denoiser',),
           'hidden': ('mllm',), 'head': ('mllm',), 'encode': ('autoencoder',)}

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'QueryKontext':
    models = parts.build(config, ('mllm', 'bridge', 'connector', 'denoiser', 'autoencoder'))
    layout = layout_of(config, models)
    _check(config, models, layout)
    return cls(models=models, layout=layout, guidance=config.model.guidance,
               negative_prompt=config.sampling.negative_prompt or config.data.empty_prompt)

  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """Connected states of words and kontext tokens (L049, L050, L053)."""
    return self.connected(params, batch)

  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    """Words and images have a scale each (L145); without images the words alone."""
    return parts.text_and_image_branches(sample, scales['text'], scales['image'],
                                         self.negative_prompt)


def _check(config: ConfigDict, models, layout: Layout) -> None:
  parts.check_equal('model.bridge.width', models['bridge'].config.width,
                    'config.model.mllm.text.width', models['mllm'].config.text.width)
  parts.check_connector(models)
  parts.check_latents(config, models['denoiser'], layout.latent)
