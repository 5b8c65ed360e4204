"""Inputs of a denoiser from plain arrays, as the tests of models hold them."""

from jaxgen.core.types import Conditioning
from jaxgen.core.types import Visual


def denoiser_inputs(latents, t, positions, segments, states, state_positions, state_segments, *,
                    clean=None, pads=None, state_pads=None, pooled=None, guidance=None):
  """``(x_t, t, visual, conditioning)`` of ``Denoiser.__call__``.

  Args:
    latents: f[B, L, C], x_t.
    t: f32[B, G].
    positions: i32[B, L, 3].
    segments: i32[B, L], 0 = padding; the tokens of a segment are one image.
    states: f[B, S, cond_dim].
    state_positions: i32[B, S, 3].
    state_segments: i32[B, S].
    clean: bool[B, L], True at conditions; None = nowhere.
    pads: bool[B, L], True at tokens of no image; None = nowhere.
    state_pads: bool[B, S]; see ``Conditioning.pads``.
    pooled: see ``Conditioning``.
    guidance: see ``Conditioning``.
  """
  images = segments if pads is None else segments * ~pads
  is_target = images > 0 if clean is None else (images > 0) & ~clean
  visual = Visual(latents, positions, segments, images, is_target)
  return latents, t, visual, Conditioning(states, state_positions, state_segments, pooled=pooled,
                                          guidance=guidance, pads=state_pads)
