"""A packed row of iMontage's pre-training, and the same samples one by one in PyTorch's class.

diffusers' ``HunyuanVideoTransformer3DModel`` takes one grid of tokens with positions from zero, and
a mask of text tokens only. So a sample becomes a grid of one row, and hooks rotate its tokens by
their own positions and hide padding from attention. The losses then equal ours.
"""

from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from jaxgen.data.positions import Grid
from jaxgen.data.positions import place
from jaxgen.models.layers.rope import angles

# (height, width) in pixels of an input and its output, from the 37 sizes: one pair of the base
# 1024, one of 768, three of 512. They fill 18,368 of 18,432 tokens of 16 pixels.
PAIRS = ((832, 1216), (640, 896), (576, 448), (512, 512), (384, 640))
ROW = 18_432 * 16**2  # pixels
GUIDANCE = 1.0  # what the denoiser is told


def make_batch(pixels: int, text: int, channels: int, cond_dim: int, pooled_dim: int
               ) -> dict[str, np.ndarray]:
  """Random tokens and states of a row, and the ``target``, the velocity to learn.

  Args:
    pixels: along one side of a token; 16, 32 or 64, of which every side in ``PAIRS`` is a multiple.
    text: states of a prompt.
    channels: of a token.
    cond_dim: of a state.
    pooled_dim: of a pooled prompt.
  """
  rng = np.random.default_rng(0)
  length, groups = ROW // pixels**2, len(PAIRS)
  positions = np.zeros((1, length, 3), np.int32)
  segments, clean = np.zeros((1, length), np.int32), np.zeros((1, length), bool)
  first = 0
  for number, (height, width) in enumerate(PAIRS, 1):
    grid = height // pixels, width // pixels
    images = place('marginal', [Grid('source', *grid), Grid('target', *grid)], 0).images
    end = first + sum(map(len, images))
    positions[0, first:end] = np.concatenate(images)
    segments[0, first:end] = number
    clean[0, first:first + len(images[0])] = True
    first = end

  def normal(*shape):
    return rng.normal(size=(1, *shape)).astype(np.float32)

  return dict(
      latents=normal(length, channels), t=rng.uniform(size=(1, groups)).astype(np.float32),
      positions=positions, segments=segments, clean=clean, states=normal(groups * text, cond_dim),
      state_positions=np.zeros((1, groups * text, 3), np.int32),
      state_segments=np.repeat(np.arange(1, groups + 1, dtype=np.int32), text)[None],
      pooled=normal(groups, pooled_dim), guidance=np.full((1, groups), GUIDANCE, np.float32),
      target=normal(length, channels))


def torch_calls(batch: dict[str, np.ndarray]) -> dict[str, Sequence[Callable]]:
  """For ``bench_step.Case.calls``: every sample as it is, and padded to the longest."""
  lengths = np.bincount(batch['segments'][0])[1:]
  groups = range(len(lengths))
  return {'torch, one by one': [call_of(batch, group, lengths[group]) for group in groups],
          'torch, padded': [call_of(batch, group, lengths.max()) for group in groups]}


def call_of(batch: dict[str, np.ndarray], group: int, length: int) -> Callable:
  """A function ``(model, tensors) -> (velocity, target)`` of one sample padded to ``length``."""
  own = np.flatnonzero(batch['segments'][0] == group + 1)
  states = np.flatnonzero(batch['state_segments'][0] == group + 1)
  where = np.pad(own, (0, length - len(own)), mode='edge')  # of every token; padding has any value
  drawn = np.flatnonzero(~batch['clean'][0, own])  # the target follows its input
  columns = slice(2 * drawn[0], 2 * drawn[-1] + 2)

  def call(model, tensors):
    import torch
    text = torch.ones(1, len(states), dtype=torch.int64, device=tensors['states'].device)
    positions = batch['positions'][:, where]
    hooks = [placed(model, positions, text.device), *hidden(model, len(own), length)]
    velocity = model(
        hidden_states=frames(tensors['latents'][:, where], 1, length),
        timestep=1000 * tensors['t'][:, group], encoder_hidden_states=tensors['states'][:, states],
        encoder_attention_mask=text, pooled_projections=tensors['pooled'][:, group],
        guidance=1000 * tensors['guidance'][:, group], return_dict=False)[0]
    for hook in hooks:
      hook.remove()
    return velocity[..., columns], frames(tensors['target'][:, own], 1, len(own))[..., columns]

  return call


def frames(tokens, rows: int, columns: int):
  """Tensor of tokens [1, rows columns, C] as one frame, [1, C / 4, 1, 2 rows, 2 columns]."""
  image = tokens.reshape(1, rows, columns, -1, 2, 2).permute(0, 3, 1, 4, 2, 5)
  return image.reshape(1, -1, 1, 2 * rows, 2 * columns)


def placed(model, positions: np.ndarray, device):
  """Rotates image tokens by ``positions`` i32[1, L, 3] instead of the grid's; returns the hook."""
  import torch
  pairs = angles(positions, model.config.rope_axes_dim, model.config.rope_theta)
  cos, sin = (torch.tensor(np.repeat(each[0], 2, axis=-1), device=device) for each in pairs)
  return model.rope.register_forward_hook(lambda *_: (cos, sin))


def hidden(model, length: int, padded: int) -> list:
  """Hides the image tokens from ``length`` to ``padded`` from attention; returns the hooks."""
  def hide(_, arguments):
    mask = arguments[3].clone()  # bool[1, 1, 1, padded + text tokens]
    mask[..., length:padded] = False
    return (*arguments[:3], mask, *arguments[4:])

  blocks = (*model.transformer_blocks, *model.single_transformer_blocks)
  return [block.register_forward_pre_hook(hide) for block in blocks] if length < padded else []
