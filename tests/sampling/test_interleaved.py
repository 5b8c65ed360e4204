"""The interleaved loop with a tiny DuetGen: events, what each image and negative sees, resuming."""

import copy
import dataclasses

import jax
import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.buckets import best_bucket
from jaxgen.data.buckets import bucket_set
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.sampling import interleaved
from jaxgen.sampling.interleaved import converse
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.interleaved import Options
from jaxgen.sharding.mesh import make_mesh
from tests.sampling.scripted import duetgen
from tests.sampling.scripted import picture
from tests.sampling.scripted import random_params
from tests.sampling.scripted import scripted


@dataclasses.dataclass
class Run:
  """A system with random weights."""

  config: object
  system: object
  params: dict
  maker: ExampleMaker

  def events(self, dialogues, options=Options(max_tokens=64), **changes):
    """All events of their answers, on one device."""
    given = dict(maker=self.maker, config=self.config, options=options,
                 mesh=make_mesh(self.config.mesh, jax.devices()[:1])) | changes
    return list(converse(self.system, self.params, dialogues, **given))


@pytest.fixture(scope='module')
def config(tiny_tokenizer):
  return duetgen(tiny_tokenizer)


USER = Part('user', text='a red circle, then a blue square')
LONG = Part('user', text='make it green. ' * 12)
ANSWERS = (('a red circle.', None, 'a blue square.', None, 'done.'), ('a cross.', None, 'end'))
GIVEN = ((USER,), (Part('source', image=picture(1)), LONG))


def dialogue(number: int, **options) -> Dialogue:
  return Dialogue.of(Sample(f'dialogue {number}', GIVEN[number]), number=number, **options)


@pytest.fixture(scope='module')
def run(config):
  """What it says to either dialogue is the answer that is due."""
  system, maker = scripted(config, [Sample('whole', (*parts, *(
      Part('target', image=picture(0), loss=True) if text is None else
      Part('assistant', text=text, loss=True) for text in answer)))
                                    for parts, answer in zip(GIVEN, ANSWERS, strict=True)])
  return Run(config, system, random_params(config), maker)


@pytest.fixture
def drawn(run, monkeypatch):
  """The requests of a test, in the batches in which they were drawn."""
  asked, real = [], interleaved.generate

  def generate(system, params, requests, **options):
    asked.append(requests)
    return real(system, params, requests, **options)

  monkeypatch.setattr(interleaved, 'generate', generate)
  return asked


def told(events, index: int) -> list:
  """Texts and images of one dialogue, and why it ended."""
  return [event.dialogue.ended if event.part is None else
          event.part.image if event.part.is_image else event.part.text
          for event in events if event.index == index]


def kinds(parts) -> list:
  return [part if isinstance(part, str) else None for part in parts]


def test_texts_and_images_come_in_turn(run, drawn):
  """What each image sees, what its negative lacks, and with what the text goes on."""
  events = run.events([dialogue(0)])
  answer = told(events, 0)
  assert kinds(answer) == [*ANSWERS[0], 'end']
  (first,), (second,) = drawn
  assert [part.text or part.role for part in first.sample.parts] == [
      USER.text, 'a red circle.', 'target']
  assert [part.text or part.role for part in second.sample.parts] == [
      USER.text, 'a red circle.', 'target', 'a blue square.', 'target']
  clean, target = run.maker(second.sample).images
  np.testing.assert_array_equal(clean.pixels, answer[1])
  assert target.is_target and not clean.is_target and target.pixels is None
  assert clean.positions[:, 0].max() == 0 and target.positions[:, 0].min() == 1
  (weight, _), (less, negative) = run.system.branches(second.sample, second.scales)
  assert (weight, less) == (2.0, -1.0)
  assert [part.text or part.role for part in negative.parts] == [
      USER.text, 'a red circle.', 'target', 'target']
  assert negative.parts[2].image is second.sample.parts[2].image


def test_dialogues_of_a_batch_are_answered_as_if_alone(run, drawn):
  """One with an image of the user's and one without, of other lengths and numbers of images."""
  both = run.events([dialogue(0), dialogue(1)])
  assert [len(requests) for requests in drawn] == [2, 1]
  assert all(kinds(told(both, index)) == [*ANSWERS[index], 'end'] for index in range(2))
  assert both[-1].index == 0 and len(both) == 10
  for index in range(2):
    alone = run.events([dialogue(index)])
    assert near(told(alone, 0), told(both, index))
  assert not near(told(run.events([dialogue(1, seed=5)]), 0), told(both, 1))


def near(left, right) -> bool:
  """The same texts, and images that are equal up to rounding to 8 bits at the last step."""
  return kinds(left) == kinds(right) and all(
      np.abs(one.astype(int) - other.astype(int)).max() <= 1
      for one, other in zip(left, right) if not isinstance(one, str))


def test_an_answer_goes_on_from_every_event(run):
  """To the same pixels, also where others of its batch have ended or are elsewhere."""
  events = run.events([dialogue(0), dialogue(1)])
  for stop in (1, 3, 5, 8):
    states = [next((event.dialogue for event in events[stop - 1::-1] if event.index == index),
                   dialogue(index)) for index in range(2)]
    rest = run.events(states)
    assert len(rest) == len(events) - stop
    for index in range(2):
      left = told(events[stop:], index)
      right = told(rest, index)
      assert kinds(left) == kinds(right)
      assert all(np.array_equal(one, other) for one, other in zip(left, right))


@pytest.mark.parametrize('options, answer', [
    (dict(images=1), ['a red circle.', None, 'a blue square.', 'image']),
    (dict(images=3), ['a red circle.', None, 'a blue square.', None, 'done.', None, 'end']),
    (dict(max_images=1), ['a red circle.', None, 'a blue square.', 'image']),
    (dict(max_images=0), ['a red circle.', 'image']),
    (dict(max_tokens=0, images=2), [None, None, 'image']),
])
def test_images_can_be_forced_and_bounded(run, options, answer):
  events = run.events([dialogue(0)], Options(**(dict(max_tokens=64) | options)))
  assert kinds(told(events, 0)) == answer


def test_texts_can_be_bounded(run):
  text, ended = told(run.events([dialogue(0)], Options(max_tokens=2)), 0)
  assert ended == 'cut' and 'a red circle.'.startswith(text) and len(text) < 13


def test_images_have_the_size_that_was_chosen_or_that_of_the_last_one(config):
  changed = copy.deepcopy(config)
  changed.data.buckets = 'ratios:16/4'

  def size(state):
    target, = interleaved._request(state, state.sample, changed, Options()).sample.targets
    return target.size

  wide = Dialogue.of(Sample('wide', (Part('source', image=picture(2, (8, 12))), USER)))
  bucket = size(wide)
  assert bucket == best_bucket((8, 12), bucket_set('ratios:16/4')) != (16, 16)
  assert size(wide.grown(Part('target', image=picture(0, bucket)))) == bucket
  assert size(wide.grown(Part('target', image=picture(0, (8, 8))))) == (16, 16)
  assert size(dataclasses.replace(wide, size=(24, 8))) == (24, 8)


@pytest.mark.parametrize('room, options, answer, said', [
    (5, {}, ['a red circle.', None], 'config.data.prompt_tokens'),
    (12, {}, ['a red circle.', None, 'a blue'], 'cut'),
    (5, dict(max_tokens=0, images=9), [None], 'config.data.prompt_tokens'),
])
def test_a_dialogue_ends_where_its_row_is_full(run, room, options, answer, said):
  """Behind an image, or within a text."""
  config, state = copy.deepcopy(run.config), dialogue(0)
  words = run.maker(interleaved._request(state, state.sample, config, Options()).sample).prompt
  config.data.prompt_tokens = len(words.tokens) + room
  *found, ended = told(run.events(
      [state], Options(**(dict(max_tokens=64) | options)), config=config,
      maker=ExampleMaker.of(config, run.system.layout)), 0)
  assert kinds(found) == answer and said in ended


def test_sampled_texts_depend_on_seed_and_number_alone(run):
  """The tokens of the script are hardly likelier than others."""
  options = Options(max_tokens=8, max_images=0, temperature=1.0)

  def texts(*dialogues):
    events = run.events(dialogues, options)
    return [told(events, index)[0] for index in range(len(dialogues))]

  both = texts(dialogue(0), dialogue(1))
  assert texts(dialogue(0)) + texts(dialogue(1)) == both
  assert len({*both, *texts(dataclasses.replace(dialogue(0), number=7), dialogue(0, seed=1))}) == 4


@pytest.mark.parametrize('parts, said', [
    ((USER, Part('assistant', text='yes')), "= 'assistant': there is nothing to answer"),
    ((USER, Part('target', image=picture(0))), "= 'target': there is nothing to answer"),
    ((Part('system', text='be kind'),), "= 'system': there is nothing to answer"),
    ((), 'x: there is nothing to answer'),
    ((Part('source', size=(8, 8)), USER), r'parts\[0\]: an image without pixels'),
])
def test_what_cannot_be_answered_is_named(parts, said):
  with pytest.raises(UserError, match=said):
    Dialogue.of(Sample('x', parts))


@pytest.mark.parametrize('fields, said', [
    (dict(max_tokens=0), 'max_tokens = 0: nothing is written'),
    (dict(top_p=0.0), 'top_p = 0.0: must be above 0'), (dict(images=-1), 'images = -1: use 0 to'),
    (dict(temperature=-1.0), 'temperature = -1.0: use 0 to'),
    (dict(guidance=101.0), 'guidance = 101.0: use 0 to 100'),
])
def test_options_out_of_range_are_named(fields, said):
  with pytest.raises(UserError, match=said):
    Options(**fields)


@pytest.mark.parametrize('change, said', [
    (dict(size=(10, 16)), r'size = \(10, 16\): both sides must be multiples of 4'),
    (dict(sample=Sample('long', (Part('user', text='long ' * 200),))),
     'the prompt has .* more than config.data.prompt_tokens = 400'),
    (dict(sample=Sample('broken', (Part('source', image=b'none'), USER))), 'cannot be read'),
])
def test_what_the_run_cannot_answer_is_named(run, change, said):
  asked = Dialogue.of(change.pop('sample', dialogue(0).sample), **change)
  with pytest.raises(UserError, match=said):
    run.events([asked])
