"""FLUX.1: dev, schnell and Kontext as published, to draw with and to fine-tune.

T5's states and CLIP's pooled vector condition the MMDiT. Kontext takes images too: clean latents in
the image stream, numbered from 1 on the first axis of the positions. Dev and Kontext are distilled
from guidance: the denoiser is told the scale, and one branch is enough.
"""

import dataclasses
from collections.abc import Mapping

from jaxgen.data.sample import Sample
from jaxgen.systems.base import Branches
from jaxgen.systems.two_towers import TwoTowerSystem


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flux(TwoTowerSystem):
  """The composition; see ``System`` and ``TwoTowerSystem``.

  A guidance-distilled denoiser is told ``guidance`` in training, and the scale of each request when
  it draws. One that is not is guided by branches.
  """

  dialect = 't5'

  @property
  def distilled(self) -> bool:
    """See ``System``."""
    return self.models['denoiser'].takes_guidance

  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    if self.distilled:
      return [(1.0, sample)]
    return super().branches(sample, scales)
