"""iMontage's job files: the six tasks of its release as requests of ours (L135-L137).

An object of numbered objects with ``task_type``, ``prompts``, ``images``, ``height``, ``width`` and
``output_num``; ``jobs.read_job`` reads it.
"""

import sys
from collections.abc import Mapping
from typing import Any

from jaxgen.core.errors import user_error
from jaxgen.data.wordings import steps_of
from jaxgen.data.wordings import worded
from jaxgen.sampling.request import round_up

# Our field -> that of iMontage's job files, which have no others but ``task_type`` and ``width``.
NAMES = {'prompt': 'prompts', 'source': 'images', 'reference': 'images', 'size': 'height',
         'outputs': 'output_num'}
_FIELDS = ('task_type', 'prompts', 'images', 'height', 'width', 'output_num')
# The images of these tasks are edited, those of the others are references.
_EDITS = ('image_editing', 'multiview')
# Tasks whose instruction lists what each output shows.
_LISTS = ('multiview', 'storyboard')
# Task -> (least number of images, what they are); the others take one or more.
_IMAGES = {
    'conditioned_cref': (2, 'the control map first, then what to draw'),
    'sref': (2, 'the content first, the style second')}


def translated(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
  """One numbered object as one of our requests, worded as its task is.

  Raises:
    UserError: an unknown or missing field, an unknown task, fewer images than the task needs, or
      an instruction that lists another number of images than there are outputs.
  """
  for field in entry:
    if field not in _FIELDS:
      raise user_error(f'{where}.{field}', entry[field], 'no such field; known: '
                       f'{", ".join(_FIELDS)}')
  sized = [field for field in ('height', 'width') if field in entry]
  for field in ('task_type', 'prompts', *(('height', 'width') if sized else ())):
    if field not in entry:
      raise user_error(f'{where}.{field}', None, 'missing')
  prompts, task, outputs = entry['prompts'], entry['task_type'], entry.get('output_num', 1)
  if isinstance(prompts, list) and all(isinstance(prompt, str) for prompt in prompts):
    prompts = '\n'.join(prompts)
  if isinstance(prompts, str):
    prompts = _prompt(task, prompts, outputs, where)
  images = entry.get('images', [])
  images = [path.strip() for path in images.split(',')] if isinstance(images, str) else images
  role = 'source' if task in _EDITS else 'reference'
  least, which = _IMAGES.get(str(task), (1, 'at least one'))
  if isinstance(images, list) and len(images) < least:
    raise user_error(f'{where}.images', images, f'{task} needs {least} images or more: {which}'
                     if least > 1 else f'{task} needs an image')
  size = dict(size=[entry['height'], entry['width']]) if sized else {}
  return {'prompt': prompts, role: images, 'outputs': outputs, **size}


def fitted(size: tuple[int, int], factor: int, where: str) -> tuple[int, int]:
  """The size rounded up to multiples of ``factor`` pixels, and a line on stderr if that differs."""
  height, width = round_up(size, factor)
  if (height, width) != size:
    print(f'{where}: {size[0]}x{size[1]} is drawn as {height}x{width}, multiples of {factor} '
          'pixels', file=sys.stderr, flush=True)
  return height, width


def _prompt(task: str, prompts: str, outputs: Any, where: str) -> str:
  """``prompts`` in the wording of its task; says what does not agree with the outputs."""
  made = worded(task, **_split(task, prompts, where), outputs=outputs, where=f'{where}.task_type')
  listed = prompts.partition(':')[2] if task == 'storyboard' else prompts
  steps = len(steps_of(listed)) if listed.lstrip().startswith('1') else 0
  if steps and steps != outputs and (task in _LISTS or outputs != 1):
    raise user_error(f'{where}.output_num', outputs, f'its instruction lists {steps} images; mend '
                     'one of the two')
  return made


def _split(task: str, prompts: str, where: str) -> dict[str, str]:
  """What the wording of a task takes from ``prompts``: the kind of control map of one task, style
  and panels of another (L137)."""
  if task == 'conditioned_cref':
    return dict(text='', signal=prompts)
  if task == 'storyboard':
    style, colon, text = prompts.partition(': ')
    if not colon:
      style, colon, text = prompts.partition(':')
    if not colon:
      raise user_error(f'{where}.prompts', prompts, 'write "style: 1. ... 2. ..." for a storyboard')
    return dict(text=text.strip(), style=style.strip())
  return dict(text=prompts)
