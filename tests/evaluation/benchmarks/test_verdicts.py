"""GenEval's verdicts on hand-made detections, each with the answer of the official rules."""

import json
import sys

import pytest

from jaxgen.core.errors import UserError
from jaxgen.evaluation.benchmarks import detections
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.verdicts import Found
from jaxgen.evaluation.benchmarks.verdicts import kept
from jaxgen.evaluation.benchmarks.verdicts import relative_position
from jaxgen.evaluation.benchmarks.verdicts import verdict

LEFT, RIGHT, TOP, BOTTOM = (0, 40, 20, 60), (80, 40, 100, 60), (40, 0, 60, 20), (40, 80, 60, 100)
CUP, CUPS = {'class': 'cup', 'count': 1}, {'class': 'cup', 'count': 2}
DOG = {'class': 'dog', 'count': 1}
NO_MORE = [{'class': 'cup', 'count': 3}]
RED, BLUE_DOG = CUP | {'color': 'red'}, DOG | {'color': 'blue'}


def placed(relation):
  return [CUP, DOG | {'position': [relation, 0]}]


def cups(*scores, box=LEFT, color=''):
  return [Found(box, score, color) for score in scores]


# tag, include, exclude, objects, right
CASES = [
    # one object: a score above 0.3 is enough, 0.3 is not
    ('single_object', [CUP], [], {'cup': cups(0.31)}, True),
    ('single_object', [CUP], [], {'cup': cups(0.3)}, False),
    ('single_object', [CUP], [], {'cup': cups(0.1)}, False),
    ('single_object', [CUP], [], {}, False),
    ('single_object', [CUP], [], {'dog': cups(0.9)}, False),
    ('single_object', [CUP], [], {'cup': cups(0.9, 0.8, 0.7), 'dog': cups(0.9)}, True),
    # two objects: both are needed, others do no harm
    ('two_object', [CUP, DOG], [], {'cup': cups(0.9), 'dog': cups(0.5)}, True),
    ('two_object', [CUP, DOG], [], {'cup': cups(0.9), 'dog': cups(0.2)}, False),
    ('two_object', [CUP, DOG], [], {'dog': cups(0.9, 0.9)}, False),
    ('two_object', [CUP, DOG], [], {'cup': cups(0.9), 'dog': cups(0.5), 'cat': cups(0.9)}, True),
    # counting: above 0.9 only, at least so many, and not one more
    ('counting', [CUPS], NO_MORE, {'cup': cups(0.95, 0.95)}, True),
    ('counting', [CUPS], NO_MORE, {'cup': cups(0.95)}, False),
    ('counting', [CUPS], NO_MORE, {'cup': cups(0.95, 0.9)}, False),
    ('counting', [CUPS], NO_MORE, {'cup': cups(0.95, 0.96, 0.97)}, False),
    ('counting', [CUPS], NO_MORE, {'cup': cups(0.95, 0.96, 0.89)}, True),
    ('counting', [CUPS], NO_MORE, {'cup': cups(0.95, 0.96, 0.89), 'dog': cups(*[0.99] * 9)}, True),
    ('counting', [CUPS], NO_MORE, {'cup': cups(0.95, 0.95, 0.95, 0.95)}, False),
    ('two_object', [CUPS], NO_MORE, {'cup': cups(0.4, 0.5)}, True),
    ('counting', [{'class': 'cup', 'count': 17}], [], {'cup': cups(*[0.95] * 20)}, False),
    ('counting', [CUP], [{'class': 'cup', 'count': 17}], {'cup': cups(*[0.95] * 20)}, True),
    # colours: those of the surest objects count
    ('colors', [RED], [], {'cup': cups(0.9, color='red')}, True),
    ('colors', [RED], [], {'cup': cups(0.9, color='orange')}, False),
    ('colors', [RED], [], {'cup': [*cups(0.9, color='blue'), *cups(0.5, color='red')]}, False),
    ('colors', [RED], [], {'cup': [*cups(0.5, color='blue'), *cups(0.9, color='red')]}, True),
    ('colors', [CUPS | {'color': 'red'}], [],
     {'cup': [*cups(0.9, color='red'), *cups(0.8, color='blue')]}, False),
    ('colors', [CUPS | {'color': 'red'}], [], {'cup': cups(0.9, 0.8, color='red')}, True),
    ('color_attr', [RED, BLUE_DOG], [],
     {'cup': cups(0.9, color='red'), 'dog': cups(0.9, color='blue')}, True),
    ('color_attr', [RED, BLUE_DOG], [],
     {'cup': cups(0.9, color='blue'), 'dog': cups(0.9, color='red')}, False),
    ('color_attr', [RED, BLUE_DOG], [], {'cup': cups(0.9, color='red')}, False),
    # positions: of the second clause's objects to the first one's
    ('position', placed('right of'), [], {'cup': cups(0.9), 'dog': cups(0.9, box=RIGHT)}, True),
    ('position', placed('left of'), [], {'cup': cups(0.9), 'dog': cups(0.9, box=RIGHT)}, False),
    ('position', placed('above'), [],
     {'cup': cups(0.9, box=BOTTOM), 'dog': cups(0.9, box=TOP)}, True),
    ('position', placed('below'), [],
     {'cup': cups(0.9, box=BOTTOM), 'dog': cups(0.9, box=TOP)}, False),
    ('position', placed('right of'), [], {'dog': cups(0.9, box=RIGHT)}, False),
    ('position', placed('right of'), [], {'cup': cups(0.9)}, False),
    ('position', placed('right of'), [], {'cup': cups(0.9), 'dog': cups(0.9)}, False),
    # diagonal: 45 degrees are both, 63 degrees are one of them
    ('position', placed('right of'), [],
     {'cup': cups(0.9, box=(0, 0, 10, 10)), 'dog': cups(0.9, box=(90, 90, 100, 100))}, True),
    ('position', placed('below'), [],
     {'cup': cups(0.9, box=(0, 0, 10, 10)), 'dog': cups(0.9, box=(90, 90, 100, 100))}, True),
    ('position', placed('below'), [],
     {'cup': cups(0.9, box=(0, 0, 10, 10)), 'dog': cups(0.9, box=(90, 30, 100, 40))}, False),
    # the surest dog is the one that must be there
    ('position', placed('right of'), [],
     {'cup': cups(0.9, box=TOP), 'dog': [Found(RIGHT, 0.5), Found(LEFT, 0.9)]}, False),
]


def test_there_are_forty_cases():
  assert len(CASES) == 40


@pytest.mark.parametrize('number', range(len(CASES)))
def test_verdict(number):
  tag, include, exclude, objects, right = CASES[number]
  found, reason = verdict(kept(objects, tag), dict(include=include, exclude=exclude))
  assert found == right and bool(reason) != right


def test_reasons_are_those_of_the_official_script():
  def reason(include, exclude, objects, tag='colors'):
    return verdict(kept(objects, tag), dict(include=include, exclude=exclude))[1]

  assert reason([CUPS], [], {'cup': cups(0.5)}) == 'expected cup>=2, found 1'
  assert reason([CUP], [{'class': 'cup', 'count': 2}], {'cup': cups(0.5, 0.6)}) == (
      'expected cup<2, found 2')
  assert reason([RED], [], {'cup': cups(0.5, color='blue')}) == (
      'expected red cup>=1, found 0 red; and 1 blue')
  assert reason(placed('above'), [], {'dog': cups(0.5)}) == (
      'expected cup>=1, found 0\nno target for dog to be above')
  assert reason(placed('above'), [], {'cup': cups(0.5), 'dog': cups(0.5, box=RIGHT)}) == (
      'expected dog above target, found right of target')


def test_a_margin_of_a_tenth_of_both_sides():
  """Boxes 10 wide: centres that are 2 apart are nowhere, 4.1 apart are beside one another."""
  other = (0, 0, 10, 10)
  assert relative_position((2, 0, 12, 10), other) == []
  assert relative_position((4, 0, 14, 10), other) == []  # (4 - 2) / 4 is not above one half
  assert relative_position((4.1, 0, 14.1, 10), other) == ['right of']
  assert relative_position(other, (4.1, 0, 14.1, 10)) == ['left of']


DETECTOR = '''
import json, sys
for line in sys.stdin:
  asked = json.loads(line)
  if "0002" in asked["image"]:
    sys.exit(3)
  box = [0, 0, 9, 9, 0.95]
  colors = {name: ["red"] * count for name, count in asked["colors"].items()}
  print(json.dumps(dict(image=asked["image"], objects=dict(cup=[box, box]), colors=colors)),
        flush=True)
'''


def test_a_detector_in_a_process_of_its_own(tmp_path):
  """Asked once for each image; where it fails, what it found before is kept."""
  program = tmp_path / 'detector.py'
  program.write_text(DETECTOR)
  record = {'tag': 'colors', 'include': [RED], 'prompt': 'a photo of a red cup'}
  item = Item('00000', 'colors', record['prompt'],
              tuple(f'00000/samples/{draw:04d}.png' for draw in range(4)),
              beside={'00000/metadata.jsonl': json.dumps(record)}, facts=dict(include=[RED]))
  folder = tmp_path / 'out'
  for file in item.files[:3]:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(b'')
  command = f'{sys.executable} {program}'
  with pytest.raises(UserError, match='gave no answer for .*out/00000/samples/0002.png'):
    detections.detected([item], str(folder), command)
  program.write_text(DETECTOR.replace('0002', '0001').replace('"red"', '"blue"'))
  scored = detections.detected([item], str(folder), command)  # asks for 0002 only
  assert list(scored.scores[0].values()) == [1.0, 1.0, 0.0, None]
  assert scored.missing == {item.files[3]: 'no such image'}
  lines = [json.loads(line) for line in (folder / 'results.jsonl').read_text().splitlines()]
  assert [line['correct'] for line in lines] == [True, True, False]
  assert detections.detected([item], str(folder), '').scores == scored.scores
  assert lines[0].keys() == {'filename', 'tag', 'prompt', 'correct', 'reason', 'metadata',
                             'details'}
  assert json.loads(lines[0]['metadata']) == record
  assert json.loads(lines[0]['details']) == {'cup': [[0, 0, 9, 9, 0.95]] * 2}
  program.write_text(DETECTOR.replace('0002', 'none').replace('"red"', '"blue"'))
  others = detections.detected([item], str(folder), f'{command} --of-another-model')
  assert list(others.scores[0].values()) == [0.0, 0.0, 0.0, None]
  assert others.scores == detections.detected([item], str(folder), '').scores
