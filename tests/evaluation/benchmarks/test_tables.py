"""Tables of benchmarks against numbers that were worked out by hand from the official rules."""

import csv
import math

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.data.sample import FileImage
from jaxgen.evaluation.benchmarks import editing
from jaxgen.evaluation.benchmarks import interleaved
from jaxgen.evaluation.benchmarks import pairs
from jaxgen.evaluation.benchmarks import text_to_image as t2i
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.files import Data
from jaxgen.evaluation.benchmarks.registry import benchmark
from jaxgen.evaluation.benchmarks.tallies import scores_of
from jaxgen.evaluation.benchmarks.tallies import tally
from jaxgen.evaluation.benchmarks.tallies import Tally


def table(name, rows):
  """The table of rows (group, scores), (group, scores, facts) or (group, scores, facts, key)."""
  found, measured = benchmark(name), []
  for group, scores, *rest in rows:
    facts, key = rest[0] if rest else {}, rest[1] if len(rest) > 1 else '0'
    measured.append((group, found.measures(Item(key, group, '', (), facts=facts), scores)))
  return scores_of(measured, found.summary)


def values(name, rows):
  return {metric: cell['value'] for metric, cell in table(name, rows).items()}


def test_geneval():
  """Means over the images of each tag; overall is the mean of tags of unequal size."""
  found = values('geneval', [
      ('single_object', {'0': 1, '1': 1, '2': 1, '3': 0}),
      ('single_object', {'0': 1, '1': 1, '2': 1, '3': 1}),
      ('counting', {'0': 0, '1': 0, '2': 0, '3': 0})])
  assert found == dict(single_object=7 / 8, counting=0, overall=7 / 16, images=7 / 12,
                       prompts=2 / 3)


def test_geneval2():
  """Two prompts: GM sqrt(0.4) and 0, AM 0.7 and 0.5; a probability of 0 makes the GM 0."""
  found = values('geneval2', [
      ('3', {'0': 0.8, '1': 0.5}, dict(skills=['object', 'count'])),
      ('4', {'0': 1.0, '1': 0.0}, dict(skills=['object', 'object']))])
  assert found == pytest.approx({
      'soft_tifa_gm': 100 * math.sqrt(0.4) / 2, 'soft_tifa_am': 100 * (0.65 + 0.5) / 2,
      'skill/object': 100 * 1.8 / 3, 'skill/count': 50, 'atoms/3': 100 * math.sqrt(0.4),
      'atoms/4': 0})
  assert t2i.variants('two') == ('two', ' two', 'Two', ' Two', '2', ' 2')
  assert t2i.variants('Yes') == ('yes', ' yes', 'Yes', ' Yes')


def dpg_data(tmp_path, rows):
  """DPG-Bench's file with these (item, id, parents, tuple)."""
  with open(tmp_path / 'dpg_bench.csv', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['item_id', 'text', 'keywords', 'proposition_id', 'dependency',
                     'category_broad', 'category_detailed', 'tuple', 'question_natural_language'])
    for item, number, parents, kind in rows:
      writer.writerow([item, 'text', 'words', number, parents, 'b', 'd', kind, f'{number}?'])
  return t2i.dpg_questions(Data(str(tmp_path), 'dpg', '', ''))


def test_dpg(tmp_path):
  """A denied parent takes its child and grandchild with it; categories do not know of that.

  Item x, three crops all yes, the last one denies its first question: 0 of 3 there. Item y has one
  question, yes in two of four crops. The official script has lost x's first question, and with
  it x, whose second one asks for it; its categories are those of the last crop of y.
  """
  questions = dpg_data(tmp_path, [
      ('x', 1, '0', 'entity - whole (cup)'), ('x', 2, '1', 'attribute - color (cup, red)'),
      ('x', 3, '2', 'attribute - shape (cup, round)'), ('y', 1, '0', 'entity - whole (dog)')])
  x = {f'{crop}/{number}': 1.0 for crop in range(4) for number in (1, 2, 3)} | {'3/1': 0.0}
  y = {'0/1': 1.0, '1/1': 1.0, '2/1': 0.0, '3/1': 0.0}
  found = values('dpg', [('all', x, dict(questions=questions['x'])),
                         ('all', y, dict(questions=questions['y']))])
  assert found == pytest.approx({
      'overall': 100 * (3 / 4 + 1 / 2) / 2, 'L1/entity': 100 * 5 / 8, 'L1/attribute': 100,
      'L2/entity - whole': 100 * 5 / 8, 'L2/attribute - color': 100, 'L2/attribute - shape': 100,
      'official/overall': 50, 'official/L1/entity': 0, 'official/L2/entity - whole': 0})
  cell = table('dpg', [('all', y | {'0/1': None}, dict(questions=questions['y']))])['overall']
  assert cell['value'] == pytest.approx(100 / 3) and cell['missing'] == 1


def test_dpg_questions_of_two_parents(tmp_path):
  """Either parent is enough, and a parent 0 is none."""
  questions = dpg_data(tmp_path, [('a', 1, '0', 'e (a)'), ('x', 1, '0', 'e (a)'),
                                  ('x', 2, '0', 'e (b)'), ('x', 3, '1,2', 'r (a, b)')])
  scores = {f'{crop}/{number}': float(number != 2) for crop in range(4) for number in (1, 2, 3)}
  found = values('dpg', [('all', scores, dict(questions=questions['x']))])
  assert found['overall'] == found['official/overall'] == pytest.approx(100 / 3)
  assert found['L1/r'] == 100


def test_a_row_of_dpg_that_is_none(tmp_path):
  """As one of DSG-1k, whose columns have moved."""
  with pytest.raises(UserError, match=r"dpg_bench.csv, row 2 = ' right': must be numbers"):
    dpg_data(tmp_path, [('x', 1, '0', 'e (a)'), ('x', 2, ' right', 'e (b)')])


def test_wise_of_both_protocols():
  """WiScore 1 is 2, 2, 2; overall weighs culture 0.4 and physics 0.1, alone 0.8 and 0.2."""
  scores = dict(consistency=2, realism=1, aesthetic=0)
  assert values('wise-legacy', [('culture', scores), ('physics', dict(scores, consistency=0))]) == (
      pytest.approx(dict(culture=0.8, physics=0.1, overall=0.8 * 0.8 + 0.1 * 0.2)))
  assert values('wise-verified', [('culture', dict(score=1)), ('time', dict(score=0))]) == (
      pytest.approx(dict(culture=1, time=0, overall=0.4 / 0.52)))
  ranges = t2i.LEGACY, t2i.VERIFIED
  for own in ranges:
    assert sum(weight for _, _, weight in own.values()) == pytest.approx(1)
    spans = [(first, last) for first, last, _ in own.values()]
    assert spans[0][0] == 1 and spans[-1][1] == 1000
    assert all(before[1] + 1 == after[0] for before, after in zip(spans, spans[1:]))


def test_imgedit():
  """A reply of two digits is missing here, and 4.5 in the official script."""
  item = Item('1', 'add', 'Add a cup.', ('1.png',), source=(FileImage('a.png'),))
  question, = editing.imgedit_ask(item, 'out')
  whole = ('Brief reasoning: fine.\nPrompt Compliance: 5\nVisual Naturalness: 4\n'
           'Physical & Detail Coherence: 4')
  assert question.parse(whole) == {'0': 5, '1': 4, '2': 4, 'official': 4.33}
  torn = question.parse('Prompt Compliance: 5\nVisual Naturalness: 4')
  assert torn == {'0': None, '1': None, '2': None, 'official': 4.5}
  rows = [('add', question.parse(whole)), ('add', torn), ('style', dict.fromkeys('012', 2.0) | {
      'official': 2.0})]
  found = table('imgedit', rows)
  assert {name: cell['value'] for name, cell in found.items()} == pytest.approx({
      'add': 13 / 3, 'style': 2, 'overall': (13 / 3 + 2) / 2, 'samples': (13 / 3 + 2) / 2,
      'official/add': (4.33 + 4.5) / 2, 'official/style': 2})
  assert found['add']['missing'] == found['overall']['missing'] == 1


def test_gedit():
  """Minimum, root, mean over groups: two edits of one group weigh as one of another."""
  scores = dict(success=9, overedit=4, natural=9, artefacts=10)  # SC 4, PQ 9, O 6
  zero = dict(success=0, overedit=9, natural=9, artefacts=9)  # SC 0, PQ 9, O 0
  lost = dict(success=None, overedit=None, natural=4, artefacts=9)  # PQ 4
  rows = [('ps_human', scores, dict(intersection=True)),
          ('ps_human', zero, dict(intersection=False)),
          ('text_change', scores, dict(intersection=False)),
          ('text_change', lost, dict(intersection=False))]
  found = values('gedit-en', rows)
  guess = sum(math.sqrt(guessed * 4) for guessed in range(11)) / 11
  assert found | {} == pytest.approx(found | {
      'G_SC': (2 + 4) / 2, 'G_PQ': (9 + 6.5) / 2, 'G_O': (3 + 6) / 2, 'text_change/O': 6,
      'intersection/G_O': 6, 'official/G_O': (3 + (6 + guess) / 2) / 2})
  missing = table('gedit-en', rows)
  assert missing['G_SC']['missing'] == missing['G_O']['missing'] == 1
  assert missing['G_PQ']['missing'] == 0 and missing['official/G_O']['missing'] == 0


def test_omnicontext():
  """Roots per sample: the mean of sqrt(4 9) and sqrt(9 9) is 7.5, not sqrt(6.5 9)."""
  found = values('omnicontext', [
      ('single_object', dict(pf=4, sc=9)), ('single_object', dict(pf=9, sc=9)),
      ('scene_object', dict(pf=0, sc=10)), ('scene_object', dict(pf=None, sc=10))])
  guess = sum(math.sqrt(10 * value) for value in range(11)) / 11
  assert found == pytest.approx({
      'single_object': 7.5, 'scene_object': 0, 'overall': 3.75, 'PF': (6.5 + 0) / 2,
      'SC': (9 + 10) / 2, 'official/overall': (7.5 + guess / 2) / 2})
  assert editing.guessed(None, None) == pytest.approx(
      np.mean([math.sqrt(a * b) for a in range(11) for b in range(11)]))


def test_dreambench_plus():
  """CP by category of the folder; by the official rule a style named after an animal is both."""
  def scores(cp, pf):
    return {f'cp/{turn}': cp for turn in range(3)} | {f'pf/{turn}': pf for turn in range(3)}

  def row(category, key, index, own):
    return category, own, dict(index=index), key

  found = values('dreambench++', [
      row('animal', 'live_subject_animal_00_cat-0', 0, scores(4, 2)),
      row('style', 'style_03_animal_sketch-5', 5, scores(0, 4) | {'cp/2': None})])
  assert found == pytest.approx({
      'CP/animal': 1, 'CP/style': 0, 'PF/photorealistic': 0.5, 'PF/style_transfer': 1,
      'CP': 3 / 5, 'PF': 0.75, 'CP x PF': 0.45, 'CP/official/animal': 3 / 5,
      'CP/official/style': 0})


def test_kris():
  """Percentages of all scores of a category: biology has four of them, colours three."""
  found = values('kris', [
      ('color_change', dict(consistency=5, quality=3, instruction=1)),
      ('biology', dict(consistency=5, quality=5, instruction=5, knowledge=1))])
  assert found == pytest.approx(dict(
      attribute=50, natural=75, factual=50, conceptual=75, overall=(150 + 300) / 7,
      consistency=100, quality=75, instruction=50, knowledge=0))
  assert sum(map(len, editing.KRIS.values())) == 20


def test_rise():
  """The weights, the half for wrong reasoning, and what the official script does where one edit
  is free of consistency: it takes 0.8 and 0.2 for all, and never calls a free one accurate."""
  listed = dict(free=False, free_listed=True)
  found = table('rise', [
      ('causal_reasoning', dict(consistency=5, reasoning=5, quality=5), listed),
      ('causal_reasoning', dict(consistency=5, reasoning=1, quality=5), listed),  # 3 / 2
      ('spatial_reasoning', dict(reasoning=5, quality=5), dict(free=True, free_listed=True)),
      ('logical_reasoning', dict(consistency=0, reasoning=1), listed),  # 0.3 + 0.7 5
      ('logical_reasoning', dict(consistency=1, reasoning=None), listed)])
  numbers = {name: cell['value'] for name, cell in found.items()}
  causal = [5, 1.5]
  assert numbers == pytest.approx({
      'score': 25 * (np.mean([*causal, 5, 3.8]) - 1), 'score/causal': 25 * (3.25 - 1),
      'score/logical': 70, 'score/spatial': 100, 'accuracy': 50, 'accuracy/causal': 50,
      'accuracy/logical': 0, 'accuracy/spatial': 100,
      'official/score': 25 * (np.mean([5, 1, 5, 3.8]) - 1), 'official/score/causal': 50,
      'official/score/logical': 70, 'official/score/spatial': 100, 'official/accuracy': 20,
      'official/accuracy/causal': 50, 'official/accuracy/logical': 0,
      'official/accuracy/spatial': 0})
  assert found['score']['missing'] == found['accuracy/logical']['missing'] == 1
  assert found['official/accuracy']['missing'] == 0


def test_comm():
  """Null is missing here and 0 in the official script, which skips what it cannot read."""
  whole = dict.fromkeys(interleaved.COMM, 8.0)
  found = values('comm', [('task3', whole), ('task3', whole | dict(completeness=None)),
                          ('task4', dict.fromkeys(interleaved.COMM, None))])
  assert found['completeness'] == found['style_consistency'] == found['task3/completeness'] == 8
  assert found['official/completeness'] == 4 and found['official/style_consistency'] == 8
  assert found['task4/completeness'] is None


def test_interleavedbench_leaves_text_of_edits_out():
  edit = Item('1', 'image_editing', '', ())
  story = Item('2', 'story_generation', '', ())
  names = interleaved.ASPECTS
  found = values('interleavedbench', [
      (story.group, dict.fromkeys(names, 4.0)),
      (edit.group, {name: 2.0 for name in names if name not in interleaved.TEXT_ASPECTS})])
  assert found == dict(text_quality=4, perceptual_quality=3, image_coherence=3,
                       text_image_coherence=4, helpfulness=3, overall=3.4)


def test_opening():
  """The mean of seven criteria, and four ways to count ties of one, two and one battles."""
  found = values('opening', [('all', dict.fromkeys(interleaved.OPENING, 6.0) | {'Correctness': 9})])
  assert found['overall'] == pytest.approx(45 / 7)
  battles = [dict(model_A='x', model_B='y', winner=winner)
             for winner in ('A', 'Tie(A)', 'Tie(B)', 'B')] + [
                 dict(model_A='y', model_B='z', winner='Tie(A)')]
  assert pairs.win_rates(battles) == dict(
      forced=dict(x=0.5, y=0.6, z=0.0), dropped=dict(x=0.5, y=0.5, z=None),
      lost=dict(x=0.25, y=0.2, z=0.0), half=dict(x=0.5, y=0.5, z=0.5))


def test_intervals():
  """Of a mean of n coin flips, near 1.96 standard errors; of groups that are all alike, none."""
  rng = np.random.default_rng(0)
  items = [('all', dict(x=tally(value))) for value in rng.integers(0, 2, 400)]
  cell = scores_of(items, lambda pool: dict(x=pool.mean('x')))['x']
  error = 1.96 * math.sqrt(0.25 / 400)
  assert cell['low'] == pytest.approx(cell['value'] - error, abs=0.012)
  assert cell['high'] == pytest.approx(cell['value'] + error, abs=0.012)
  still = [(group, dict(x=tally(value))) for group, value in (('a', 1), ('a', 1), ('b', 0))]
  cell = scores_of(still, lambda pool: dict(x=pool.mean('x')))['x']
  assert cell['low'] == cell['high'] == cell['value'] == pytest.approx(2 / 3)
  clusters = [('all', dict(x=Tally(4 * value, 4))) for value in rng.integers(0, 2, 100)]
  wide = scores_of(clusters, lambda pool: dict(x=pool.mean('x')))['x']
  assert wide['count'] == 400 and wide['high'] - wide['low'] > 3 * error  # images of one prompt
