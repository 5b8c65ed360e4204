"""DuetGen: Qwen2.5-VL writes and decides when to draw, a video DiT draws every image.

A dialogue is one sequence of texts and images. Where the language model says <BOV>, the states of
all tokens before it, words and images, pass a connector and are cross-attended by the denoiser;
all earlier images, the user's or drawn ones, are clean frames before the noisy target, each encoded
alone, with a time index and a grid of its own (paper section 4, L109-L112, A24). Any language model
that sees images and any denoiser of the registry can be named by the config.
"""

import dataclasses
from collections.abc import Mapping

import jax
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Params
from jaxgen.data.sample import Sample
from jaxgen.systems import parts
from jaxgen.systems.base import Branches
from jaxgen.systems.multimodal import layout_of
from jaxgen.systems.multimodal import MultimodalSystem


@dataclasses.dataclass(frozen=True, kw_only=True)
class DuetGen(MultimodalSystem):
  """The composition; see ``System`` for the methods.

  Attributes:
    dropped: what guidance's negative lacks, as training has taught: the last text (L119), or all.
  """

  dropped: str

  reads = {'condition': ('mllm', 'connector'), 'denoise': ('denoiser',), 'hidden': ('mllm',),
           'head': ('mllm',), 'encode': ('autoencoder',)}

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'DuetGen':
    if config.sampling.negative_prompt:
      raise user_error('config.sampling.negative_prompt', config.sampling.negative_prompt,
                       'DuetGen is guided away from the dialogue without its last text; leave it '
                       'empty')
    models = parts.build(config, ('mllm', 'connector', 'denoiser', 'autoencoder'))
    layout = layout_of(config, models)
    parts.check_connector(models)
    parts.check_latents(config, models['denoiser'], layout.latent)
    dropout = config.data.dropout
    return cls(models=models, layout=layout, guidance=config.model.guidance,
               dropped='text' if dropout.text > dropout.last_text else 'last_text')

  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """Connected states of every layer at the tokens before <BOV> (L110, L111)."""
    return self.connected(params, batch)

  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    """The negative lacks the last text alone; images and earlier texts stay (L119, A23).

    Where training drops all texts more often, all are what it lacks.
    """
    return parts.text_branches(sample, scales['text'], self.dropped, empty='')
