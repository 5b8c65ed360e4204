"""Wordings: the sentences that instructions of the multi-image tasks are put into."""

import dataclasses
import re
from collections.abc import Sequence

from jaxgen.core.errors import record_error
from jaxgen.core.errors import user_error
from jaxgen.data.sample import Part

# How many images are asked for (L008).
COUNT = 'Please output {outputs} images according to the instruction: '
# Task -> what the released model was asked with (L137); tasks without ``{text}`` have one
# instruction for all samples.
WORDINGS: dict[str, str] = {
    'image_editing': '{text}',
    'cref': '{text}',
    'conditioned_cref': 'Ref to the first {signal} image, generate image with other images.',
    'sref': 'Ref to the second image, transfer the style from image_2 to image_1 and generate a '
            'new image.',
    'multiview': 'Please change views of given image, {text}',
    'storyboard': 'Inspired by this character, a {style} unfolds: {text}',
}
_FIELD = re.compile(r'\{(\w+)\}')
PLACEHOLDER = re.compile(r'<image_(\d+)>')
_ASKED = re.compile(r'Please output (\d+) images? according to the instruction:\s*')
# A number that opens a step: '1.', '2)', '3、', but not '1.5'.
_STEP = re.compile(r'(?<![\d.])(\d+)[.):、．](?!\d)')


def worded(task: str, text: str, *, outputs: int, where: str = 'task', **fields: str) -> str:
  """The prompt of a sample of one of the tasks, behind the sentence that asks for N images.

  Args:
    task, text, where, **fields: as for ``instructed``.
    outputs: images that are asked for.
  """
  return COUNT.replace('{outputs}', str(outputs)) + instructed(task, text, where=where, **fields)


def instructed(task: str, text: str, *, where: str = 'task', **fields: str) -> str:
  """The instruction of a sample of one of the tasks; ``edit_prompt`` of a config may ask for N.

  Args:
    task: a key of ``WORDINGS``.
    text: the sample's own instruction; its braces are text.
    where: sample or field, for errors.
    **fields: what else the wording has a place for: ``signal`` or ``style``.

  Raises:
    UserError: an unknown task, or a field too many or too few.
  """
  if task not in tuple(WORDINGS):  # of a file, where it may be of any type
    raise user_error(where, task, f'use one of {", ".join(WORDINGS)}')
  template = WORDINGS[task]
  needed = sorted(set(_FIELD.findall(template)) - {'text'})
  if sorted(fields) != needed:
    raise user_error(where, sorted(fields), f'the wording of {task} needs the fields {needed}')
  values = {'text': text, **fields}
  return _FIELD.sub(lambda match: values[match[1]], template)


def numbered(steps: Sequence[str]) -> str:
  """``1. this 2. that``; ``steps_of`` takes it apart."""
  return ' '.join(f'{number}. {step}' for number, step in enumerate(steps, start=1))


def steps_of(text: str) -> list[str]:
  """The steps that an instruction such as ``1. pan left 2. zoom in`` lists; [] = it lists none."""
  starts: list[re.Match[str]] = []
  for match in _STEP.finditer(text):  # other numbers of the text may stand between
    if int(match[1]) == len(starts) + 1:
      starts.append(match)
  ends = [*(match.start() for match in starts[1:]), len(text)]
  return [text[match.end():end].strip(' .,;\n') for match, end in zip(starts, ends)]


def check_asked(text: str, outputs: int, where: str) -> None:
  """Raises a ``RecordError`` where a prompt asks for another number of images than there are."""
  for match in _ASKED.finditer(text):
    if int(match[1]) != outputs:
      raise record_error(where, match[0].strip(), f'contradicts the number of outputs, {outputs}; '
                         'mend one of the two')


def marked(parts: Sequence[Part], where: str) -> list[Part]:
  """The parts before the targets, with every image named in the texts as ``<image_n>`` (L008, A03).

  n counts the images from 1. Texts that name images must name all of them. Where they name none,
  each image is named at its place between the texts, behind the sentence that asks for a number
  of images.

  Args:
    parts: given texts and images in reading order.
    where: sample or field, for errors.

  Raises:
    RecordError: an image that no text names although others are named, or a name without an image.
  """
  count = sum(part.is_image for part in parts)
  places = [place for place, part in enumerate(parts) if part.role == 'user']
  named = {int(match[1]) for place in places for match in PLACEHOLDER.finditer(parts[place].text)}
  if not named or not places:
    return _named_in_place(list(parts), places)
  for number in sorted(named - set(range(1, count + 1))):
    raise record_error(where, f'<image_{number}>', f'the sample is given {count} images, counted '
                       'from 1; mend the number')
  for number in sorted(set(range(1, count + 1)) - named):
    raise record_error(where, f'<image_{number}>', 'no text mentions this image; write its name '
                       'where it belongs, or leave the image out')
  return list(parts)


def _named_in_place(parts: list[Part], places: Sequence[int]) -> list[Part]:
  """Names every image in the next text; those behind the last text at its end."""
  waiting: list[str] = []
  numbers = iter(range(1, len(parts) + 1))
  for place, part in enumerate(parts):
    if part.is_image:
      waiting.append(f'<image_{next(numbers)}>')
    elif place in places and waiting:
      asked = _ASKED.match(part.text)
      start = asked.end() if asked else 0
      text = f'{part.text[:start]}{" ".join(waiting)} {part.text[start:]}'
      parts[place], waiting = dataclasses.replace(part, text=text), []
  if waiting and places:
    last = parts[places[-1]]
    parts[places[-1]] = dataclasses.replace(last, text=f'{last.text} {" ".join(waiting)}')
  return parts
