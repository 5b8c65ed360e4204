"""Wordings: golden strings of the six tasks, any number of images, no field guessed."""

import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.wordings import WORDINGS
from jaxgen.data.wordings import worded

ONE = 'Please output 1 images according to the instruction: '
GOLDEN = [
    (('image_editing', 'Make it snow.', 1), {}, ONE + 'Make it snow.'),
    (('cref', 'The cat sits beside the dog.', 1), {}, ONE + 'The cat sits beside the dog.'),
    (('conditioned_cref', '', 1), {'signal': 'depth'},
     ONE + 'Ref to the first depth image, generate image with other images.'),
    (('sref', '', 1), {},
     ONE + 'Ref to the second image, transfer the style from image_2 to image_1 and generate a '
     'new image.'),
    (('multiview', 'turn left by 90 degrees.', 4), {},
     'Please output 4 images according to the instruction: Please change views of given image, '
     'turn left by 90 degrees.'),
    (('storyboard', 'she finds a map.', 12), {'style': 'noir tale'},
     'Please output 12 images according to the instruction: Inspired by this character, a noir '
     'tale unfolds: she finds a map.'),
]


@pytest.mark.parametrize('sample, fields, expected', GOLDEN, ids=[case[0][0] for case in GOLDEN])
def test_golden_strings(sample, fields, expected):
  task, text, outputs = sample
  assert worded(task, text, outputs=outputs, **fields) == expected


def test_every_task_is_pinned():
  assert [case[0][0] for case in GOLDEN] == list(WORDINGS)


def test_braces_of_the_user_are_text():
  text = 'draw {text} and {outputs} and {0}'
  assert worded('cref', text, outputs=2) == (
      'Please output 2 images according to the instruction: ' + text)


def test_mistakes_are_named():
  with pytest.raises(UserError, match="^a.jsonl:3 = 'edit': use one of image_editing, cref"):
    worded('edit', '', outputs=1, where='a.jsonl:3')
  with pytest.raises(UserError, match=r"wording of storyboard needs the fields \['style'\]"):
    worded('storyboard', '', outputs=1)
  with pytest.raises(UserError, match=r"task = \['style'\]: the wording of sref needs the fields"):
    worded('sref', '', outputs=1, style='noir')
