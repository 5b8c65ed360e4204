"""Wordings: golden strings of the six tasks, any number of images, no field guessed, names."""

import pytest

from jaxgen.config import base_config
from jaxgen.core.errors import UserError
from jaxgen.data import tasks
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.wordings import WORDINGS
from jaxgen.data.wordings import check_asked
from jaxgen.data.wordings import steps_of
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


SOURCE, REFERENCE = Part('source', image=b''), Part('reference', image=b'')
TARGET = Part('target', image=b'', loss=True)
ASKED = 'Please output {outputs} images according to the instruction: {caption}'  # L008


def text(words: str) -> Part:
  return Part('user', text=words)


def named(*parts: Part, task: str = 'many_to_many', **data) -> list[str]:
  """The texts of a sample as its task words it, where images are named."""
  config = base_config().data
  config.update(dict(edit_prompt=ASKED, placeholders=True) | data)
  return [part.text for part in tasks.worded(Sample('a', parts, origin='a:1'), task, config).texts]


@pytest.mark.parametrize('parts, expected', [
    # Texts that name no image: the names stand where the images do, behind the common sentence.
    ([SOURCE, text('turn left'), TARGET, TARGET],
     ['Please output 2 images according to the instruction: <image_1> turn left']),
    ([REFERENCE, REFERENCE, text('both on a bench'), *[TARGET] * 10],
     ['Please output 10 images according to the instruction: <image_1> <image_2> both on a bench']),
    ([REFERENCE, text('this man'), REFERENCE, text('and this dog'), TARGET],
     ['Please output 1 images according to the instruction: <image_1> this man',
      '<image_2> and this dog']),
    ([text('draw it like'), SOURCE, TARGET],
     ['Please output 1 images according to the instruction: draw it like <image_1>']),
    # Texts that name them say where themselves.
    ([*[REFERENCE] * 11, text(' '.join(f'<image_{number}>' for number in range(11, 0, -1))),
      TARGET],
     [ONE + ' '.join(f'<image_{number}>' for number in range(11, 0, -1))]),
    ([text('no image at all'), TARGET], [ONE + 'no image at all']),
])
def test_images_are_named_in_the_texts(parts, expected):
  assert named(*parts) == expected


def test_released_weights_know_no_names():
  parts = (SOURCE, text('put <image_1> on grass'), TARGET)
  assert named(*parts, placeholders=False) == [ONE + 'put <image_1> on grass']
  assert not base_config().data.placeholders


def test_edits_and_wordings_name_their_images():
  assert named(SOURCE, text('make it red'), TARGET, task='edit') == [ONE + '<image_1> make it red']
  style = worded('sref', '', outputs=1)
  assert named(REFERENCE, REFERENCE, text(style), TARGET, edit_prompt='{caption}') == [
      ONE + '<image_1> <image_2> Ref to the second image, transfer the style from image_2 to '
      'image_1 and generate a new image.']


@pytest.mark.parametrize('words, said', [
    ('put <image_1> on grass', "^a:1: caption = '<image_2>': no text mentions this image; write"),
    ('<image_1> and <image_2> and <image_3>',
     "^a:1: caption = '<image_3>': the sample is given 2 images, counted from 1; mend the number"),
    ('<image_0>', "^a:1: caption = '<image_0>': the sample is given 2 images"),
])
def test_images_without_a_name_and_names_without_an_image(words, said):
  with pytest.raises(UserError, match=said) as error:
    named(REFERENCE, REFERENCE, text(words), TARGET)
  assert '\n' not in str(error.value)


@pytest.mark.parametrize('words, steps', [
    ('1. pan left 2. zoom in by 1.5. 3. pan up', ['pan left', 'zoom in by 1.5', 'pan up']),
    ('1) a\n2) b', ['a', 'b']), ('1、看 2、走', ['看', '走']), (' 1. once', ['once']),
    ('Please output 2 images according to the instruction: Please change views, 1. a, 2. b.',
     ['a', 'b']),
    ('1. the 7. cat 2. walks', ['the 7. cat', 'walks']),
    ('turn by 90 degrees.', []), ('', []), ('1.5 times as large', []), ('2. then', []),
    (' '.join(f'{number}. x{number}' for number in range(1, 13)),
     [f'x{number}' for number in range(1, 13)])])
def test_steps_of_an_instruction(words, steps):
  assert steps_of(words) == steps


def test_another_number_of_images_than_there_are_is_refused():
  said = worded('cref', 'a', outputs=12)
  check_asked(said, 12, 'a')
  with pytest.raises(UserError, match="^a = 'Please output 12 images according to .*': contradicts "
                     'the number of outputs, 1; mend one of the two'):
    check_asked(ONE + said, 1, 'a')
  with pytest.raises(UserError, match='^a:1: caption = .*contradicts the number of outputs, 2'):
    named(SOURCE, text(said), TARGET, TARGET, placeholders=False)
