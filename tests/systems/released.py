"""iMontage's released forward pass, made of diffusers' own HunyuanVideo class.

A token is a patch of 2 x 2 latent pixels, whatever stands beside it. So images of any sizes are one
strip of patches to the class's convolution, and its rotation alone must be told where they stand.
"""

import torch
from diffusers import HunyuanVideoTransformer3DModel

FRAMES = 32


def strip(tokens: torch.Tensor) -> torch.Tensor:
  """Tokens f[B, L, 4 C] as a video f[B, C, 1, 2, 2 L]."""
  rows, length, _ = tokens.shape
  patches = tokens.reshape(rows, length, -1, 2, 2)
  return patches.permute(0, 2, 3, 1, 4).reshape(rows, -1, 1, 2, 2 * length)


def tokens(video: torch.Tensor) -> torch.Tensor:
  """The inverse of ``strip``."""
  rows, channels, _, _, length = video.shape
  patches = video.reshape(rows, channels, 2, length // 2, 2)
  return patches.permute(0, 3, 1, 2, 4).reshape(rows, length // 2, -1)


class MarginalRope(torch.nn.Module):
  """Every image is rotated as the frame at its time in a video of 32 frames of its size (L132).

  Args:
    rope: of the class, whose table of all frames is cut.
    inputs, outputs: (rows, columns) of the tokens of each reference, and of each target.
  """

  def __init__(self, rope: torch.nn.Module, inputs, outputs):
    super().__init__()
    self.rope, self.inputs, self.outputs = rope, inputs, outputs

  def forward(self, hidden_states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines f[L, H] for a strip of all the images."""
    parts = []
    for grids, first in ((self.inputs, 0), (self.outputs, FRAMES - 8)):
      for (rows, columns), time in zip(grids, torch.linspace(first, first + 7, 4).long().tolist()):
        video = self.rope(hidden_states.new_empty(1, 1, FRAMES, 2 * rows, 2 * columns))
        parts.append([table.unflatten(0, (FRAMES, -1))[time] for table in video])
    return tuple(torch.cat(tables) for tables in zip(*parts, strict=True))


class ManyToMany(HunyuanVideoTransformer3DModel):
  """Takes and gives a strip of noisy targets; ``references`` stand clean before it, at its time."""

  references: torch.Tensor

  def look_at(self, references: torch.Tensor, inputs, outputs) -> 'ManyToMany':
    """Sets the strip f[1, C, 1, 2, 2 L] of the references and the sizes of all images."""
    self.references, self.rope = references, MarginalRope(self.rope, inputs, outputs)
    return self

  def forward(self, hidden_states: torch.Tensor, **options) -> tuple[torch.Tensor]:
    """As the class's, without its ``return_dict``."""
    joined = torch.cat([self.references, hidden_states], dim=-1)
    velocity, = super().forward(joined, **options)
    return (velocity[..., self.references.shape[-1]:],)
