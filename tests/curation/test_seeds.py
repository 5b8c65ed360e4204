"""Trees of requests: all categories once, siblings are named, repetitions go, answers are drawn."""

import json

import pytest

from jaxgen.curation import dialogues
from jaxgen.curation import seeds
from jaxgen.curation.domains import categories
from jaxgen.curation.domains import DOMAINS
from jaxgen.curation.models import Reply
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record
from tests.curation.test_pages import Scripted


def test_the_tree_has_the_size_of_the_paper():
  assert len(DOMAINS) == 8 and len(categories()) == 151
  assert len({name.casefold() for _, name in categories()}) == 151
  records = seeds.read_seeds('')
  assert len({record.id for record in records}) == 151


def test_every_category_gets_ten_seeds_and_hears_of_its_siblings():
  model = Scripted(lambda request: json.dumps(
      [f'{request.text.split(" of ")[1][:40]} number {place}' for place in range(10)]))
  made = [seed for record in seeds.read_seeds('') for seed in seeds.seeded(record, model=model)]
  assert len(made) == 1510 and len({record.id for record in made}) == 1510
  for (domain, name), request in zip(categories(), model.asked, strict=True):
    told = request.text.split('keep out of them: ')[1].split('.\nAnswer')[0].split(', ')
    assert told == [other for other in DOMAINS[domain] if other != name]


@pytest.mark.parametrize('answer, why', [
    ('["How to knit a hat", "how to KNIT a hat"]', 'the same'), ('["How to knit"]', '1 items'),
    ('["How to knit a hat", "Knit"]', '3 to 40 words'), ('["How to knit a hat", 3]', 'strings'),
    (json.dumps(['How to knit a hat', 'word ' * 61]), '3 to 40 words')])
def test_lists_of_another_form_are_refused(answer, why):
  record = Record('k', dict(domain='Arts & Crafts', category='knitting', seed='How to knit?'),
                  Lineage('k'))
  dropped, = seeds.expanded(record, model=Scripted(lambda _: answer), count=2)
  assert dropped.reason == 'no instruction' and why in dropped.facts['error']


def test_what_says_the_same_is_kept_once():
  record = Record('k', dict(domain='Own', category='knitting', seed='s'), Lineage('k'))
  model = Scripted(lambda _: json.dumps(['How do I knit a hat?', 'Knit a hat, please',
                                          'Knit wool socks']))
  made = list(seeds.expanded(record, model=model, count=3))
  assert [each['key'] for each in made] == ['hat knit', 'hat knit', 'knit socks wool']
  assert [type(each) for each in seeds.unrepeated(made[:2])] == [Record, Dropped]


def test_an_answer_is_drawn_picture_by_picture():
  record = Record('k', dict(instruction='Knit a hat'), Lineage('k'))
  steps = [dict(text='Cast on.', picture='needles'), dict(text='Knit.', picture='a hat')]
  told = seeds.answered(record, model=Scripted(lambda _: json.dumps(steps)))
  painter = Scripted(lambda request: Reply(images=(request.text.encode(),)))
  sample = dialogues.dialogue_sample(seeds.drawn(told, model=painter))['sample']
  assert [(part.role, part.text or part.image) for part in sample.parts] == [
      ('user', 'Knit a hat'), ('assistant', 'Cast on.'), ('target', b'needles'),
      ('assistant', 'Knit.'), ('target', b'a hat')]
  assert [request.images for request in painter.asked] == [(), (b'needles',)]
  for wrong in (steps[:1], [*steps, dict(text='x')], [*steps, dict(text='![](1)', picture='y')]):
    assert seeds.answered(record, model=Scripted(
        lambda _, wrong=wrong: json.dumps(wrong))).reason == 'no answer'
  assert seeds.drawn(told, model=Scripted(lambda _: Reply(error='unsafe'))).reason == 'not drawn'
