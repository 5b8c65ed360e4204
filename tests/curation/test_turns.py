"""Chains of edits and storyboards: joined, continued, judged, cut; told as they were drawn."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxgen.core.image_files import to_jpeg
from jaxgen.curation import storyboards
from jaxgen.curation import turns
from jaxgen.curation.models import Reply
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.data.decode import decode
from jaxgen.data.sample import encoded
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.wordings import steps_of
from tests.curation.pools_of import picture
from tests.curation.pools_of import signs
from tests.curation.test_pages import Scripted

PHOTOS = pathlib.Path(__file__).parents[3] / 'shared/data/photos'
SHOWN = [picture(0.3 * signs(0, *range(number)), 64) for number in range(8)]


def sample(name, *parts):
  made = tuple(Part('user', text=part) if isinstance(part, str) else Part(*part) for part in parts)
  return Record(name, dict(sample=Sample(name, made)), Lineage(name, 'MIT'))


def shown(number, role='target'):
  return role, None, SHOWN[number]


def edit(name, before, words, after):
  return turns.turns_of(sample(name, shown(before, 'source'), words, shown(after)))


def chain(count, name='c'):
  return Record(name, dict(images=SHOWN[:count + 1], steps=[[f'step {n}'] for n in range(count)],
                           chain=name, turn=1), Lineage(name))


def test_samples_of_any_number_of_turns():
  one = edit('12-3', 0, 'add a hat', 1)
  assert (one['chain'], one['turn'], one['steps']) == ('12', 3, [['add a hat']])
  several = turns.turns_of(sample('12-3', 'add', shown(0, 'source'), shown(1), 'remove', shown(2)))
  assert several['chain'] == '12-3' and several['steps'] == [['add'], ['remove']]
  assert several['images'] == SHOWN[:3]
  alone = turns.turns_of(sample('a', 'a dog', shown(0)))
  assert alone['steps'] == [] and alone['images'] == SHOWN[:1]
  for parts in ((shown(0, 'reference'), 'draw', shown(1)), (shown(0, 'source'), shown(1)),
                (shown(0, 'source'), 'one', 'two', shown(1), shown(2)), ('a text',)):
    assert turns.turns_of(sample('a', *parts)).reason == 'no chain of edits'


def test_edits_that_follow_each_other_are_joined():
  """Also where the file was saved anew; a missing turn, and another picture, begin a chain."""
  again = to_jpeg(Image.fromarray(decode(SHOWN[2])))
  third = edit('1-3', 2, 'third', 3)
  third = third.having(images=[again, *third['images'][1:]])
  other = edit('1-7', 0, 'seventh', 1)
  made = list(turns.chained([third, edit('1-5', 4, 'fifth', 5), edit('1-1', 0, 'first', 1),
                             edit('1-6', 5, 'sixth', 6), edit('1-2', 1, 'second', 2), other]))
  assert [each['steps'] for each in made] == [
      [['first'], ['second'], ['third']], [['fifth'], ['sixth']], [['seventh']]]
  assert made[0]['images'] == SHOWN[:4] and made[0].id == '1-1+1-2+1-3'
  assert made[2] is other


def test_short_chains_are_continued_to_a_random_length():
  lengths = set()
  for seed in range(16):
    writer = Scripted(lambda request: json.dumps(
        [f'edit {n}' for n in range(int(request.text.split()[1]))]))
    editor = Scripted(lambda request: Reply(images=(SHOWN[len(editor.asked) + 1],)))
    made = turns.continued(chain(1), writer=writer, editor=editor, least=2, most=4, seed=seed)
    assert made['images'][:2] == SHOWN[:2] and len(made['images']) == len(made['steps']) + 1
    assert '1. step 0' in writer.asked[0].text and writer.asked[0].images == (SHOWN[1],)
    # Each edit is drawn on what the one before has left.
    assert [request.images for request in editor.asked] == [
        (image,) for image in made['images'][1:-1]]
    lengths.add(len(made['steps']))
    assert made['drawn'] == len(made['steps']) - 1
  assert lengths == {2, 3, 4}
  long = turns.continued(chain(2), writer=None, editor=None)
  assert long['drawn'] == 0 and long['steps'] == chain(2)['steps']


@pytest.mark.slow
def test_photographs_saved_anew_are_the_same():
  """At the quality of the web, and another crop is another picture."""
  for file in sorted(PHOTOS.glob('*.jpg'))[::6]:
    photo = Image.open(file).convert('RGB').resize((512, 512))
    again = to_jpeg(photo, quality=85)
    assert turns._same(encoded(np.asarray(photo)), again), file.name
    assert not turns._same(to_jpeg(photo.crop((40, 40, 512, 512)).resize((512, 512))), again)


@pytest.mark.parametrize('answer', ['["a"]', '["a", "A"]', '["step 0", "b"]', 'no list'])
def test_proposals_must_differ(answer):
  made = turns.continued(chain(1), writer=Scripted(lambda _: answer), editor=None, least=3, most=3)
  assert made.reason == 'no proposals'


@pytest.mark.parametrize('poor, left, reason', [
    (None, 4, ''), ('step 3', 3, ''), ('step 2', 2, ''), ('step 1', 0, 'poor image'),
    ('step 0', 4, '')])
def test_a_chain_ends_before_the_first_poor_turn(poor, left, reason):
  """The first turn is the set's own and not judged."""
  judge = Scripted(lambda request: json.dumps(dict(
      fidelity=9, quality=2 if poor and f'Instruction: {poor}\n' in request.text else 9)))
  made = turns.judged_turns(chain(4).having(drawn=3), model=judge, least=2)
  if reason:
    assert (made.reason, made.facts['turn']) == (reason, 2)
  else:
    assert len(made['steps']) == left and made['images'] == SHOWN[:left + 1]


@pytest.mark.parametrize('count, lengths', [(1, []), (2, [2]), (4, [4]), (5, [4]), (7, [4, 3])])
def test_long_chains_are_cut(count, lengths):
  made = [each for each in turns.windows(chain(count), least=2, most=4)
          if not isinstance(each, Dropped)]
  assert [len(each['targets']) for each in made] == lengths
  assert len({each.id for each in made}) == len(made)
  start = 0
  for each, length in zip(made, lengths):
    assert [*each['given'], *each['targets']] == SHOWN[start:start + length + 1]
    assert steps_of(each['instruction'][0]) == [f'step {n}' for n in range(start, start + length)]
    start += length


def test_all_wordings_of_a_chain_are_kept():
  made, = turns.windows(chain(2).having(steps=[['a', 'b'], ['c', 'd', 'e']]))
  assert made['instruction'] == ['1. a 2. c', '1. b 2. d']


def test_panels_are_drawn_with_the_character_and_the_one_before():
  planned = storyboards.planned(Record('r', dict(image=SHOWN[0], role='', pack='0'), Lineage('')),
                                least=3, most=3)
  painter = Scripted(lambda _: Reply(images=(SHOWN[len(painter.asked)],)))
  made = storyboards.panels_drawn(planned, model=painter)
  assert made['targets'] == SHOWN[1:4]
  assert [request.images for request in painter.asked] == [
      (SHOWN[0],), (SHOWN[0], SHOWN[1]), (SHOWN[0], SHOWN[2])]
  for request, panel in zip(painter.asked, planned['panels']):
    assert panel in request.text and planned['style'] in request.text
  assert 'second image' not in painter.asked[0].text and 'second image' in painter.asked[1].text
  told = ['It waits here.', 'It runs home.', 'It sleeps well.']
  captioner = Scripted(lambda _: json.dumps(told))
  assert storyboards.recaptioned(made, model=captioner)['instruction'] == [
      '1. It waits here. 2. It runs home. 3. It sleeps well.']
  assert captioner.asked[0].images == tuple(SHOWN[:4])
  for answer in (told[:2], ['It', *told[1:]], ['word ' * 60, *told[1:]]):
    assert storyboards.recaptioned(
        made, model=Scripted(lambda _: json.dumps(answer))).reason == 'no captions'


def test_plans_differ_by_their_ids():
  plans = [storyboards.planned(Record(f'{n}', dict(image=b''), Lineage(''))) for n in range(40)]
  assert {len(plan['panels']) for plan in plans} == {2, 3, 4}
  assert len({plan['style'] for plan in plans}) > 6
  assert all(len(story) == 4 and len(set(story)) == 4 for story in storyboards.STORIES)
