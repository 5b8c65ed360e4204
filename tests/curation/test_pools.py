"""Pairs of one caption: planted clusters, bounds, the form of instructions, a hundred thousand."""

import json
import resource
import time

import numpy as np
import pytest

from jaxgen.curation import pools
from jaxgen.curation.clusters import clusters
from jaxgen.curation.clusters import EXACT
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.features.vectors import unit
from tests.curation import pools_of


def planted(count, members, width, noise=0.35, seed=0):
  """f32[n, E] of clusters around random directions, with the cluster of each, shuffled."""
  rng = np.random.default_rng(seed)
  middles = unit(rng.standard_normal((count, width)))
  labels = rng.permutation(np.repeat(np.arange(count), members))
  spread = unit(rng.standard_normal((len(labels), width)))
  return unit(middles[labels] + noise * spread), labels


def agreement(found, labels):
  """Share of planted clusters that were found as they are."""
  wanted = {tuple(np.flatnonzero(labels == label)) for label in np.unique(labels)}
  return len(wanted & {tuple(each) for each in found}) / len(wanted)


@pytest.mark.parametrize('count, members', [(100, 5), (400, 6)])
def test_planted_clusters_are_recovered(count, members):
  features, labels = planted(count, members, 128)
  assert (len(features) > EXACT) == (count == 400)
  found = clusters(features, 0.7)
  assert agreement(found, labels) > 0.99
  again = clusters(features, 0.7)
  assert len(again) == len(found) and all(map(np.array_equal, found, again))


@pytest.mark.slow
def test_a_hundred_thousand_captions_take_less_than_five_minutes():
  """Slow: 100,000 vectors of SigLIP's width; the time is that of one core."""
  features, labels = planted(25_000, 4, 768)
  start = time.process_time()
  found = clusters(features, 0.7)
  seconds = time.process_time() - start
  print(f'{seconds:.0f} s, {agreement(found, labels):.4f} of clusters, '
        f'{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GiB')
  assert seconds < 300 and agreement(found, labels) > 0.98


def image(name, values, licence='MIT'):
  return Record(name, dict(image=name.encode(), features=unit(values), caption='c', key='c'),
                Lineage(f'{name}.jpg', licence, f'http://{name}'))


def parted(made):
  made = list(made)
  return ([each for each in made if isinstance(each, Record)],
          {each.record.id: each.reason for each in made if isinstance(each, Dropped)})


def test_a_pair_leads_to_the_image_that_is_least_like_the_others():
  one = pools_of.signs(0)
  group = [image('a', one), image('b', pools_of.signs(0, 0, 1, 2), 'CC-BY-4.0'),
           image('c', pools_of.signs(0, 3, 4, 5, 6)), image('same', 0.5 * pools_of.signs(7)),
           image('same2', pools_of.signs(7)), image('far', -one), image('late', one)]
  made, dropped = parted(pools.pairs(group, least=0.7, most=0.97, largest=6))
  pair, = made
  assert (pair['source'], pair['target'], pair.id) == (b'a', b'c', 'c+a')
  assert pair.lineage.licence == 'MIT'
  assert [other['source'] for other in pair.lineage.notes['others']] == ['a.jpg']
  assert pair.lineage.notes['similarity'] == pytest.approx(1 - 4 / 24, abs=1e-4)
  assert dropped == dict(b='not in a pair', same='out of bounds', same2='out of bounds',
                         far='no like image', late='too many of one caption')
  several, _ = parted(pools.pairs(group[:3], least=0.6, most=0.97, triplets=5))
  assert [(pair['source'], pair['target']) for pair in several] == [(b'a', b'c'), (b'b', b'c')]
  assert several[1].lineage.licence == 'CC-BY-4.0 AND MIT'


def test_bounds_are_respected():
  rng = np.random.default_rng(0)
  group = [image(f'{number}', rng.standard_normal(3)) for number in range(60)]
  for least, most in ((0.5, 0.8), (0.9, 0.95)):
    made, _ = parted(pools.pairs(group, least=least, most=most, triplets=60))
    assert made
    for pair in made:
      assert least <= pair.lineage.notes['similarity'] + 1e-4 and (
          pair.lineage.notes['similarity'] <= most + 1e-4)


def test_images_take_the_text_behind_them():
  pictures = [pools_of.picture(pools_of.signs(number)) for number in range(3)]
  parts = (Part('target', image=pictures[0]), Part('assistant', text='The  first: one!'),
           Part('target', image=pictures[1]), Part('assistant', text='no'),
           Part('target', image=pictures[2]))
  made, dropped = parted(pools.captioned_images(Record('d', dict(sample=Sample('d', parts)),
                                                       Lineage('d')), words=2))
  assert [(each['key'], each['image']) for each in made] == [('the first one', pictures[0])]
  assert dropped == {'d/1': 'short caption', 'd/2': 'short caption'}


@pytest.mark.parametrize('answer, wanted', [
    ("['One prompt', '一个提示']", ['One prompt', '一个提示']),
    ("[ 'It\\'s one\n prompt', '一个提示' .]", ["It's one prompt", '一个提示']),
    ('Here:\n```json\n["One prompt", "一个提示"]\n```', ['One prompt', '一个提示']),
    ('["Two"]', 'list of two'), ('["一个", "One"]', 'must be in English'),
    ('["One", "Two"]', 'second in Chinese'), (json.dumps(['word ' * 65, '一个']), '65 words'),
    ('One prompt', 'no JSON list'), ('["One", 2]', 'list of two'),
])
def test_instructions_have_the_form_of_the_paper(answer, wanted):
  if isinstance(wanted, list):
    assert pools.two_prompts(answer) == wanted
  else:
    with pytest.raises(ValueError, match=wanted):
      pools.two_prompts(answer)
