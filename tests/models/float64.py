"""Runs a torch class in float64 throughout, given the time frequencies that jaxgen uses.

Classes ask for fp32 in places whatever their dtype: norms, rotations, softmaxes, tables. Here they
get float64 instead, so what is left of the distance to a run in fp32 is that run's rounding alone.
One thing stays as the class has it: the angles of the time features are fp32 products of times and
a table. torch rounds the exponential of that table one way on one processor and another way on the
next, and times of up to 1000 make an ulp of it visible, so both runs get the angles from our table.
``test_tables.py`` compares the table and the features with the class's own.
"""

import contextlib
import copy

import diffusers.models.embeddings
import diffusers.models.transformers.transformer_qwenimage
import diffusers.models.transformers.transformer_z_image
import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from jaxgen.models.layers.embeddings import time_frequencies

WIDER = {torch.float32: torch.float64, torch.complex64: torch.complex128}


def doubled(model: torch.nn.Module) -> torch.nn.Module:
  """A copy in float64; tables that a constructor made in fp32 are made again."""
  model = copy.deepcopy(model).double()
  with throughout():
    for module in model.modules():
      if hasattr(module, 'inv_freq'):  # rotations of transformers
        module.__init__(module.config)
      elif hasattr(module, 'pos_freqs'):  # of Qwen-Image
        module.__init__(module.theta, module.axes_dim, module.scale_rope)
  return model


@contextlib.contextmanager
def throughout():
  """Within it, torch makes float64 of whatever is asked to be fp32."""
  before = torch.get_default_dtype()
  torch.set_default_dtype(torch.float64)
  try:
    with _Wider():
      yield
  finally:
    torch.set_default_dtype(before)


class _Wider(TorchFunctionMode):

  def __torch_function__(self, function, types, args=(), kwargs=None):
    if function is torch.Tensor.float:
      function = torch.Tensor.double
    result = function(*map(_wider, args), **{
        name: _wider(value) for name, value in (kwargs or {}).items()})
    if function is torch.tensor and result.dtype == torch.float32:  # of an fp32 array
      return result.double()
    return result


def _wider(value):
  return WIDER.get(value, value) if isinstance(value, torch.dtype) else value


@contextlib.contextmanager
def our_time_frequencies():
  """Within it, the classes take the table of their time features from jaxgen."""
  qwen_image = diffusers.models.transformers.transformer_qwenimage
  embedder = diffusers.models.transformers.transformer_z_image.TimestepEmbedder
  places = [
      (diffusers.models.embeddings, 'get_timestep_embedding', _time_features),
      (qwen_image, 'get_timestep_embedding', _time_features),
      (embedder, 'timestep_embedding', staticmethod(_cosines_first)),
  ]
  before = [vars(owner)[name] for owner, name, _ in places]
  for owner, name, ours in places:
    setattr(owner, name, ours)
  try:
    yield
  finally:
    for (owner, name, _), theirs in zip(places, before, strict=True):
      setattr(owner, name, theirs)


def _time_features(timesteps, embedding_dim, flip_sin_to_cos=False, downscale_freq_shift=1, scale=1,
                   max_period=10_000):
  """As diffusers' function of this signature, which ``test_tables.py`` compares with ours."""
  assert downscale_freq_shift == 0 and embedding_dim % 2 == 0
  times = np.float32(scale) * timesteps.numpy().astype(np.float32)
  angle = torch.tensor(times[:, None] * time_frequencies(embedding_dim // 2, max_period))
  parts = [torch.sin(angle), torch.cos(angle)]
  return torch.cat(parts[::-1] if flip_sin_to_cos else parts, dim=-1)


def _cosines_first(t, dim, max_period=10_000):
  """The same of Z-Image's class."""
  return _time_features(t, dim, True, 0, 1, max_period)
