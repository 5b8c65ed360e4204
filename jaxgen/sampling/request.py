"""Requests: samples whose targets have a size and no pixels, worded as training words them."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.core.limits import MAX_GUIDANCE
from jaxgen.core.limits import MAX_OUTPUTS
from jaxgen.core.limits import MAX_SEED
from jaxgen.core.limits import check_range
from jaxgen.core.texts import checked
from jaxgen.core.types import Layout
from jaxgen.data import positions
from jaxgen.data import tasks
from jaxgen.data.buckets import area_size
from jaxgen.data.buckets import best_bucket
from jaxgen.data.buckets import bucket_set
from jaxgen.data.decode import DecodeError
from jaxgen.data.decode import image_size
from jaxgen.data.examples import drawn_images
from jaxgen.data.examples import grid_role
from jaxgen.data.images import pixels_of
from jaxgen.data.sample import FileImage
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample

# Tasks that a request may be worded by; those of training alone need the target's pixels.
TASKS = ('pair', 'edit', 'transformation', 'reference', 'many_to_many', 'dialogue')

Image = bytes | np.ndarray | FileImage


@dataclasses.dataclass(frozen=True)
class Request:
  """One sample to be drawn.

  Attributes:
    sample: as its task leaves it.
    seed, number: key of its noise: the same two give the same images, whatever else is drawn.
    scales: guidance scales by branch: ``text``, ``image``.
  """

  sample: Sample
  seed: int
  number: int
  scales: Mapping[str, float]


def make_request(config: ConfigDict, text: str | None, *, size: tuple[int, int] | None = None,
                 source: Sequence[Image] = (), reference: Sequence[Image] = (),
                 context: Sequence[Image] = (), outputs: int = 1, task: str = 'auto',
                 seed: int = 0, number: int = 0, guidance: float | None = None,
                 image_guidance: float | None = None, name: str = '', origin: str = '',
                 whole: bool = False) -> Request:
  """A request from its pieces.

  Args:
    config: of the run: ``data`` words the prompt, ``sampling`` has the defaults.
    text: what to draw, or the instruction; None or '' is the empty prompt.
    size: (height, width) of every output; None takes ``sampling.size``, or the bucket nearest in
      shape to the first source, or with ``data.references`` 'area' what the last given image is
      stretched to.
    source: images to edit.
    reference: images whose content to use.
    context: images that came before.
    outputs: how many images, drawn in one pass.
    task: one of ``TASKS``, or ``auto``.
    seed: see ``Request``.
    number: see ``Request``.
    guidance: scale of the text; None takes the config's.
    image_guidance: scale of the images; None takes the config's.
    name: of the request in results; the text unless given.
    origin: what errors point to; the name unless given.
    whole: the text is the whole prompt, and the config's own wording is not put around it.

  Raises:
    UserError: no output, a seed or a scale out of range, pieces that do not make up the task, or a
      source that is no image.
  """
  text = checked(text, 'prompt') if text and text.strip() else None
  name = name or (f'prompt {text!r}' if text else 'empty prompt')
  origin = origin or name
  check_range(f'{origin}: outputs', outputs, 1, MAX_OUTPUTS)
  check_range(f'{origin}: seed', seed, 0, MAX_SEED)
  if task not in ('auto', *TASKS):
    raise user_error(f'{origin}: task', task, f'use auto, or one of {", ".join(TASKS)}')
  given = [Part(role, image=image) for role, images in (
      ('source', source), ('reference', reference), ('context', context)) for image in images]
  words = (Part('user', text=text),) if text else ()
  images = [part.image for part in given]
  target = Part('target', loss=True, size=size or default_size(config, source, images, origin))
  sample = Sample(name, (*given, *words, *(target,) * outputs), origin=origin)
  data = _bare(config.data) if whole else config.data
  return request_of(config, _worded(sample, task, data), seed=seed, number=number,
                    guidance=guidance, image_guidance=image_guidance)


def request_of(config: ConfigDict, sample: Sample, *, seed: int, number: int,
               guidance: float | None = None, image_guidance: float | None = None) -> Request:
  """A request for a sample as its task leaves it; see ``make_request``."""
  sampling = config.sampling
  scales = dict(text=sampling.guidance if guidance is None else guidance,
                image=sampling.image_guidance if image_guidance is None else image_guidance)
  for kind, scale in scales.items():
    check_range(f'{sample.origin}: {kind} guidance', scale, 0, MAX_GUIDANCE)
  return Request(sample, seed, number, scales)


def as_request(sample: Sample, sizes: Sequence[tuple[int, int]] = ()) -> Sample:
  """The sample as it is asked for: images to be drawn have a size in place of pixels.

  Args:
    sample: its targets are uint8[H, W, 3].
    sizes: (height, width) of each target; () = as they are.
  """
  given = iter(sizes or [part.image.shape[:2] for part in sample.parts if part.is_target])
  return dataclasses.replace(sample, parts=tuple(
      Part('target', size=next(given), loss=True) if part.is_target else part
      for part in sample.parts))


def check_fits(requests: Sequence[Request], layout: Layout, clean_roles: Sequence[str]) -> None:
  """Refuses what the models of a run cannot draw, before any image or weight is read.

  Args:
    requests: to be drawn.
    layout: what the models need.
    clean_roles: ``config.data.clean_roles``, whose images the denoiser gets.

  Raises:
    UserError: a side that is no multiple of the pixels of a latent token, images where none are
      taken, or more than the position scheme has places for.
  """
  factor = layout.latent.factor
  for request in requests:
    sample = request.sample
    for part in sample.targets:
      if part.size and part.size != round_up(part.size, factor):
        height, width = round_up(part.size, factor)
        raise user_error(f'{sample.origin}: size', part.size, 'both sides must be multiples of '
                         f'{factor}, the pixels along a latent token, as {height}x{width}')
    if not (layout.vision or clean_roles) and len(sample.images) > len(sample.targets):
      raise user_error(f'{sample.origin}: images', None, 'the models of this run take none; ask in '
                       'words alone, or use a model that edits')
    grids = [positions.Grid(grid_role(sample.parts[index]), 1, 1)
             for index in drawn_images(sample.parts, layout.scheme, clean_roles)]
    try:
      positions.place(layout.scheme, grids, states=0)
    except RecordError as error:
      raise error.of(sample.origin) from None


def round_up(size: tuple[int, int], factor: int) -> tuple[int, int]:
  """(height, width), both rounded up to multiples of ``factor`` pixels."""
  height, width = (-(-side // factor) * factor for side in size)
  return height, width


def make_requests(config: ConfigDict, texts: Sequence[str], **options) -> list[Request]:
  """One request for each text, numbered in their order; ``options`` as for ``make_request``."""
  return [make_request(config, text, number=number, **options)
          for number, text in enumerate(texts)]


def default_size(config: ConfigDict, source: Sequence[Image], given: Sequence[Image], origin: str
                 ) -> tuple[int, int]:
  """(height, width) of an output that none was chosen for.

  Args:
    config: of the run: ``sampling.size``, or the area of references with the shape of the last
      given image, or the bucket nearest in shape to the first source, or the square of training.
    source: images of that role.
    given: images of all roles, in order.
    origin: of the request, for errors.

  Raises:
    UserError: an image cannot be read.
  """
  data, side = config.data, config.sampling.size
  try:
    if not side and data.references == 'area' and given:
      return area_size(image_size(given[-1]), pixels_of(data.reference_pixels, len(given)))
    if not side and data.buckets and source:
      return best_bucket(image_size(source[0]), bucket_set(data.buckets))
  except DecodeError as error:
    raise user_error(origin, None, f'an image cannot be read: {error}') from None
  side = side or data.image_size
  return side, side


def _bare(data: ConfigDict) -> ConfigDict:
  """``config.data`` with prompts that are the caption alone."""
  bare = data.copy_and_resolve_references()
  with bare.unlocked():
    bare.update(pair_prompt='{caption}', edit_prompt='{caption}')
  return bare


def _worded(sample: Sample, task: str, data: ConfigDict) -> Sample:
  """The sample as its task words it; nothing is dropped at random."""
  if not any(not part.is_target for part in sample.parts):
    return tasks.dropped(sample, 'all', data.empty_prompt)
  return tasks.worded(sample, tasks.kind_of(sample) if task == 'auto' else task, data)
