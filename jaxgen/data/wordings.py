"""Wordings: the sentences that instructions of the multi-image tasks are put into."""

import re

from jaxgen.core.errors import user_error

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


def worded(task: str, text: str, *, outputs: int, where: str = 'task', **fields: str) -> str:
  """The prompt of a sample of one of the tasks.

  Args:
    task: a key of ``WORDINGS``.
    text: the sample's own instruction; its braces are text.
    outputs: images that are asked for.
    where: sample or field, for errors.
    **fields: what else the wording has a place for: ``signal`` or ``style``.

  Raises:
    UserError: an unknown task, or a field too many or too few.
  """
  if task not in tuple(WORDINGS):  # of a file, where it may be of any type
    raise user_error(where, task, f'use one of {", ".join(WORDINGS)}')
  template = COUNT + WORDINGS[task]
  needed = sorted(set(_FIELD.findall(template)) - {'outputs', 'text'})
  if sorted(fields) != needed:
    raise user_error(where, sorted(fields), f'the wording of {task} needs the fields {needed}')
  values = {'outputs': str(outputs), 'text': text, **fields}
  return _FIELD.sub(lambda match: values[match[1]], template)
