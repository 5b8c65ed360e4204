"""Position schemes: pure functions from the images of a sample to (t, h, w) of every token.

A scheme sees the latent grids of a sample in sequence order, each with its role, and the number
of prompt states. Positions are integers and may be negative, so models compute rotations from
them instead of looking them up. No model and no system computes a position.

Unless a scheme says otherwise, (h, w) of a token are its row and column within its own image, and
the prompt states stand at (0, 0, 0), as in FLUX. Models that rotate no text (HunyuanVideo) or
reach it by cross-attention (Cosmos) get the same zeros.
"""

import dataclasses
import functools
import itertools
from collections.abc import Callable
from collections.abc import Sequence

import numpy as np

from jaxgen.core.errors import record_error
from jaxgen.core.errors import user_error

# iMontage divides 32 time indices: inputs at the head, outputs at the tail (L006).
TIMES = 32
INPUT_TIMES = range(0, 8)
OUTPUT_TIMES = range(24, 32)
# Slots of the released code, which truncates four evenly spaced points (L132).
RELEASED_INPUTS = (0, 2, 4, 7)
RELEASED_OUTPUTS = (24, 26, 28, 31)


@dataclasses.dataclass(frozen=True)
class Grid:
  """One image as the denoiser sees it.

  Attributes:
    role: 'context', 'source', 'reference' or 'target'.
    height, width: in latent tokens.
  """

  role: str
  height: int
  width: int

  @property
  def is_target(self) -> bool:
    return self.role == 'target'


@dataclasses.dataclass(frozen=True)
class Placed:
  """Positions of one sample; arrays may be shared and are not to be changed.

  Attributes:
    images: i32[h w, 3] for each grid, in the given order.
    states: i32[n, 3] for the n prompt states.
  """

  images: tuple[np.ndarray, ...]
  states: np.ndarray


Scheme = Callable[[Sequence[Grid], int], Placed]


def place(scheme: str, grids: Sequence[Grid], states: int) -> Placed:
  """Positions of the latent tokens and prompt states of one sample.

  Args:
    scheme: a key of ``SCHEMES``.
    grids: in sequence order, which ``order`` gives.
    states: number of prompt states, those of learned pads included.

  Returns:
    See ``Placed``.

  Raises:
    UserError: an unknown scheme, or images that the scheme has no place for.
  """
  return _known(scheme)(tuple(grids), states)


def order(scheme: str, roles: Sequence[str]) -> tuple[int, ...]:
  """Indices of the images in sequence order; images of one kind keep their order.

  The shifted schemes have source images before the target and all others behind it (L059). Every
  other scheme has conditions first, then targets.

  Raises:
    UserError: an unknown scheme.
  """
  _known(scheme)
  ranks = ({'source': 0, 'target': 1, 'reference': 2, 'context': 2} if scheme in SHIFTED else
           {'source': 0, 'reference': 0, 'context': 0, 'target': 1})
  return tuple(sorted(range(len(roles)), key=lambda index: ranks[roles[index]]))


@functools.lru_cache(maxsize=256)
def image_positions(height: int, width: int) -> np.ndarray:
  """(0, h, w) for the tokens of an image in reading order; i32[height * width, 3], read-only."""
  grid = grid_positions(height, width)  # [h w, 2]
  positions = np.concatenate([np.zeros_like(grid[:, :1]), grid], axis=1)
  positions.setflags(write=False)
  return positions


@functools.lru_cache(maxsize=256)
def grid_positions(height: int, width: int) -> np.ndarray:
  """(h, w) of every cell of a grid in reading order; i32[height * width, 2], read-only."""
  rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing='ij')
  positions = np.stack([rows.ravel(), columns.ravel()], axis=1).astype(np.int32)
  positions.setflags(write=False)
  return positions


def text_positions(length: int) -> np.ndarray:
  """0, 1, 2, ... on all three axes: where the language model sees a plain sequence.

  Returns:
    i32[length, 3].
  """
  return np.repeat(np.arange(length, dtype=np.int32)[:, None], 3, axis=1)


def flux(grids: Sequence[Grid], states: int) -> Placed:
  """FLUX and FLUX Kontext: the target at t = 0, condition k = 0, 1, ... at t = k + 1.

  Further targets, which FLUX does not have, stand between: t numbers targets, then conditions.
  """
  return Placed(_at_times(grids, _targets_first(grids)), _zeros(states))


def z_image(grids: Sequence[Grid], states: int) -> Placed:
  """Z-Image (L142): states at t = 1, 2, ..., n on the first axis; the image at t = n + 1.

  Further images, which Z-Image does not have, follow at n + 2, ...
  """
  positions = _zeros(states)
  positions[:, 0] = np.arange(1, states + 1)
  times = range(states + 1, states + 1 + len(grids))
  return Placed(_at_times(grids, times), positions)


def qwen_image(grids: Sequence[Grid], states: int) -> Placed:
  """Qwen-Image and its Edit models: t numbers the target, then the conditions.

  (h, w) count from the middle of each image, with the odd row or column on the negative side.
  Text counts up on all axes from the largest half side of any image.
  """
  images = tuple(
      _shifted_by(grid, (time, grid.height // 2 - grid.height, grid.width // 2 - grid.width))
      for grid, time in zip(grids, _targets_first(grids), strict=True))
  first = max((side // 2 for grid in grids for side in (grid.height, grid.width)), default=0)
  return Placed(images, first + text_positions(states))


def per_image(grids: Sequence[Grid], states: int) -> Placed:
  """DuetGen (L112): t = 0, 1, 2, ... for the images in sequence order."""
  return Placed(_at_times(grids, range(len(grids))), _zeros(states))


def omnigen2(grids: Sequence[Grid], states: int) -> Placed:
  """OmniGen2 (L145): text at 0..n-1 on all axes, then images at a running t.

  t starts at n and advances by the longer side of each image; (h, w) start at 0.
  """
  steps = (max(grid.height, grid.width) for grid in grids)
  times = list(itertools.accumulate(steps, initial=states))[:-1]
  return Placed(_at_times(grids, times), text_positions(states))


def even(grids: Sequence[Grid], states: int) -> Placed:
  """The control of iMontage's ablation (L007): all images spread evenly over the 32 times.

  Raises:
    UserError: more than 32 images.
  """
  _check_count('images', len(grids), TIMES, 'even')
  return Placed(_at_times(grids, _spread(range(TIMES), len(grids))), _zeros(states))


def marginal(grids: Sequence[Grid], states: int) -> Placed:
  """iMontage's Marginal RoPE as released (L006, L132, A02).

  k <= 4 inputs take the first k of the times 0, 2, 4, 7 and k <= 4 outputs the first k of
  24, 26, 28, 31. More than four inputs, or outputs, take consecutive times instead.

  Raises:
    UserError: more than 8 inputs or more than 8 outputs (L009).
  """
  def times(head: Sequence[int], released: Sequence[int], count: int) -> Sequence[int]:
    return released[:count] if count <= len(released) else head[:count]
  inputs, outputs = _count_kinds(grids, 'marginal')
  return _by_kind(grids, states, times(INPUT_TIMES, RELEASED_INPUTS, inputs),
                  times(OUTPUT_TIMES, RELEASED_OUTPUTS, outputs))


def marginal_consecutive(grids: Sequence[Grid], states: int) -> Placed:
  """Marginal RoPE with inputs at 0, 1, 2, ... and outputs at 24, 25, ... (A02); errors alike."""
  inputs, outputs = _count_kinds(grids, 'marginal_consecutive')
  return _by_kind(grids, states, INPUT_TIMES[:inputs], OUTPUT_TIMES[:outputs])


def marginal_paper(grids: Sequence[Grid], states: int) -> Placed:
  """Marginal RoPE with k points spread over 0..7 and over 24..31 (A02); errors alike."""
  inputs, outputs = _count_kinds(grids, 'marginal_paper')
  return _by_kind(grids, states, _spread(INPUT_TIMES, inputs), _spread(OUTPUT_TIMES, outputs))


def shifted(grids: Sequence[Grid], states: int, *, product: bool = False,
            mirror: bool = True) -> Placed:
  """Query-Kontext's shifted 2D RoPE (L057, L058); all at t = 0.

  The target stands at the origin. References follow it down the diagonal: each starts where the
  sizes of the target and of the references before it add up to (L146). The paper's i runs along
  the width and its j along the height, so that its (i, j) is our (w, h).

  Args:
    grids: one target, at most one source, any number of references. Context images count as
      references.
    states: number of prompt states.
    product: reference n starts at n times the target's size, as equation 1 reads. It equals the
      running sum where all sizes are equal (A12).
    mirror: the source has the negated coordinates of its tokens, as equation 2 reads, which
      meets the target at the origin; otherwise it stands a whole size before it (A13).

  Raises:
    UserError: not one target, or several sources, which would share positions.
  """
  if not grids:
    return Placed((), _zeros(states))
  targets = [grid for grid in grids if grid.is_target]
  sources = sum(grid.role == 'source' for grid in grids)
  if len(targets) != 1 or sources > 1:
    raise record_error('images', f'{sources} source, {len(targets)} target',
                       'the shifted schemes have at most one source and exactly one target; use '
                       'per_image or a marginal scheme for more')
  target = targets[0]
  images, corner = [], np.array([target.height, target.width])
  for grid in grids:
    if grid.is_target:
      images.append(image_positions(grid.height, grid.width))
    elif grid.role == 'source':
      images.append(-image_positions(grid.height, grid.width) if mirror else
                    _shifted_by(grid, (0, -grid.height, -grid.width)))
    else:
      images.append(_shifted_by(grid, (0, *corner)))
      corner = corner + ((target.height, target.width) if product else (grid.height, grid.width))
  return Placed(tuple(images), _zeros(states))


SHIFTED: dict[str, Scheme] = {
    'shifted': shifted,
    'shifted_product': functools.partial(shifted, product=True),
    'shifted_source_shift': functools.partial(shifted, mirror=False),
}

SCHEMES: dict[str, Scheme] = {
    'flux': flux,
    'z_image': z_image,
    'qwen_image': qwen_image,
    'per_image': per_image,
    'omnigen2': omnigen2,
    'marginal': marginal,
    'marginal_consecutive': marginal_consecutive,
    'marginal_paper': marginal_paper,
    'even': even,
    **SHIFTED,
}


def _known(scheme: str) -> Scheme:
  if scheme not in SCHEMES:
    raise user_error('scheme', scheme, f'use one of {", ".join(SCHEMES)}')
  return SCHEMES[scheme]


def _zeros(states: int) -> np.ndarray:
  return np.zeros((states, 3), np.int32)


def _shifted_by(grid: Grid, offset: Sequence[int]) -> np.ndarray:
  """Positions of the grid, moved by (t, h, w); i32[h w, 3]."""
  return image_positions(grid.height, grid.width) + np.array(offset, np.int32)


def _at_times(grids: Sequence[Grid], times: Sequence[int]) -> tuple[np.ndarray, ...]:
  return tuple(_shifted_by(grid, (time, 0, 0)) for grid, time in zip(grids, times, strict=True))


def _targets_first(grids: Sequence[Grid]) -> list[int]:
  """A number for each grid: targets from 0 on, then conditions."""
  targets, conditions = itertools.count(), itertools.count(sum(grid.is_target for grid in grids))
  return [next(targets if grid.is_target else conditions) for grid in grids]


def _spread(times: range, count: int) -> list[int]:
  """``count`` evenly spaced times from the first to the last, truncated as the release does."""
  return [times[index * (len(times) - 1) // max(count - 1, 1)] for index in range(count)]


def _count_kinds(grids: Sequence[Grid], scheme: str) -> tuple[int, int]:
  """(inputs, outputs), both within the slots that there are."""
  outputs = sum(grid.is_target for grid in grids)
  _check_count('input images', len(grids) - outputs, len(INPUT_TIMES), scheme)
  _check_count('output images', outputs, len(OUTPUT_TIMES), scheme)
  return len(grids) - outputs, outputs


def _by_kind(grids: Sequence[Grid], states: int, inputs: Sequence[int],
             outputs: Sequence[int]) -> Placed:
  """Gives the inputs and the outputs of a sample their times in order."""
  inputs, outputs = iter(inputs), iter(outputs)
  times = [next(outputs if grid.is_target else inputs) for grid in grids]
  return Placed(_at_times(grids, times), _zeros(states))


def _check_count(what: str, count: int, limit: int, scheme: str) -> None:
  if count > limit:
    raise record_error(what, count, f'the scheme {scheme} has {limit} time indices for them; use '
                       'fewer, or per_image')
