"""iMontage: many images in, many images out, drawn by HunyuanVideo's MMDiT in one pass.

Images are frames of a pseudo-video: each is encoded alone by the causal autoencoder, keeps its own
(h, w) and gets a time index by its role (Marginal RoPE, paper section 3.1). Clean references and
noisy targets share the image stream; a Llama tower and CLIP's pooled vector read the instruction.
"""

import dataclasses

from jaxgen.systems.two_towers import TwoTowerSystem

# NEGATIVE_PROMPT of the release's constants.py, HunyuanVideo's own (L135).
NEGATIVE_PROMPT = ('Aerial view, aerial view, overexposed, low quality, deformation, a poor '
                   'composition, bad hands, bad teeth, bad eyes, bad limbs, distortion')


@dataclasses.dataclass(frozen=True, kw_only=True)
class IMontage(TwoTowerSystem):
  """The composition; see ``System`` and ``TwoTowerSystem``.

  The scale that the distilled denoiser is told is not that of the branches (L135), of which the
  second keeps the references.
  """

  dialect = 'llama'
  skipped = 2  # hidden_states[-3] (L134)
  presets = {
      'released': {'model.guidance': 1.0, 'sampling.steps': 50, 'sampling.solver': 'euler',
                   'sampling.guidance': 6.0, 'sampling.timestep_shift': 7.0,
                   'sampling.negative_prompt': NEGATIVE_PROMPT},  # L135
      # The shift of training, and the prompt that its dropout leaves (L024, L029, L037).
      'paper': {'sampling.steps': 50, 'sampling.guidance': 6.0, 'sampling.timestep_shift': 5.0,
                'sampling.negative_prompt': ''},
  }
