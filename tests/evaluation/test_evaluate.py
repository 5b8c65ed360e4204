"""Evaluation of a workdir: what it writes, and that its numbers are the scorer's."""

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.shapes import geneval
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.evaluation import evaluate as evaluation
from jaxgen.evaluation.shapes import captions
from jaxgen.evaluation.shapes.cases import make_cases
from jaxgen.evaluation.shapes.marks import mark
from jaxgen.evaluation.shapes.marks import Marks


# IOMM draws one image at a time.
DRAWN = ('edit', 'reference', 'scene', 'partial')


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, tiny_base, tiny_system):
  """Random weights where a run would have trained ones, evaluated with two images a task."""
  folder = str(tmp_path_factory.mktemp('runs') / 'run')
  config = tiny_base.copy_and_resolve_references()
  config.sampling.update(steps=2, guidance=1.0)
  config.data.prompt_tokens = 256  # the tokenizer knows few words of the drawn tasks
  config.data.patches = 12
  rng = np.random.default_rng(0)
  params = trees.map_named(  # no zeros, unlike a fresh model's last layer
      lambda _, leaf: np.float32(rng.normal(0.0, 0.2, leaf.shape)), tiny_system.shapes())
  save_weights(folder, params, to_json(config))
  evaluation.evaluate(folder, prompts=2, images_per_prompt=1, untrained=True,
                      tasks=','.join(('captions', *DRAWN)))
  return folder


def read(workdir: str, name: str):
  with open(f'{workdir}/{name}.json') as file:
    return json.load(file)


@pytest.mark.parametrize('name', ['evaluation', 'evaluation_untrained'])
def test_record(workdir, name):
  record = read(workdir, name)
  assert list(record['score']) == [*geneval.TASKS, *DRAWN, 'overall']
  assert record['score']['overall'] == pytest.approx(
      np.mean([value for task, value in record['score'].items() if task != 'overall']))
  assert record['images'] == 20 and record['prompts'] == 2 and record['seed'] == 0
  scenes = geneval.evaluation_prompts(2, 0)
  captioned, drawn = record['samples'][:12], record['samples'][12:]
  assert [(sample['task'], sample['caption']) for sample in captioned] == [
      (scene.task, scene.caption) for scene in scenes]
  verdicts = []
  for sample, scene in zip(captioned, scenes, strict=True):
    image = np.asarray(Image.open(f'{workdir}/{sample["file"]}'))
    assert image.shape == (16, 16, 3)
    assert sample['correct'] == captions.score(image, scene.request)
    verdicts.append((scene.task, [dict(correct=sample['correct'])]))
  verdicts += [(sample['task'], sample['marks']) for sample in drawn]
  assert record['score'] == evaluation.accuracies(verdicts)


def test_drawn_tasks(workdir):
  """Of each problem: what was given, drawn and expected as one picture, and its marks."""
  record = read(workdir, 'evaluation')
  samples = record['samples'][12:]
  assert [sample['task'] for sample in samples] == [task for task in DRAWN for _ in range(2)]
  for number, sample in enumerate(samples):
    source = DrawnSource(sample['task'], Settings(((16, 16),)), 'test')
    problem, _ = source.problem(number % 2)
    given = [part.image for part in source[number % 2].images if part.role != 'target']
    assert sample['caption'] == ' / '.join(part.text for part in source[number % 2].texts)
    assert sample['columns'] == len(given) + 1
    strip = np.asarray(Image.open(f'{workdir}/{sample["file"]}'))
    assert strip.shape == (2 * 18 - 2, sample['columns'] * 18 - 2, 3)
    for column, image in enumerate(given):
      np.testing.assert_array_equal(strip[:16, column * 18:][:, :16], image)
    drawn, expected = strip[:16, -16:], strip[-16:, -16:]
    np.testing.assert_array_equal(expected, source[number % 2].targets[0].image)
    marks = dataclasses.asdict(mark(drawn, problem.targets[0]))
    assert sample['marks'] == [marks] and sample['correct'] == marks['correct']
  assert list(record['details']) == list(DRAWN)
  for task, detail in record['details'].items():
    cells = [sample['marks'][0]['cells'] for sample in samples if sample['task'] == task]
    assert set(detail) == {field.name for field in dataclasses.fields(Marks)} - {'correct'}
    assert detail['cells'] == pytest.approx(np.mean(cells))
    assert (detail['kept'] is not None) == (task == 'edit')
    assert (detail['identity'] is not None) == (task == 'reference')
    assert detail['consistent'] is None
  assert record['copied'] == {'edit': 0.0, 'reference': 0.0, 'overall': 0.0}
  assert set(record['copies']) == {'edit', 'reference'}


def test_tasks_are_those_of_the_sources_unless_named(tiny_config):
  names = [case.task for case in make_cases(tiny_config, '', prompts=1, images=1, seed=0)]
  assert names == list(geneval.TASKS)
  tiny_config.data.sources.pair.update(task='auto', path='storyboard', fields=(('count', '2'),))
  tiny_config.data.sources.image.path = 'edit'
  cases = make_cases(tiny_config, '', prompts=2, images=1, seed=0)
  assert [case.task for case in cases] == ['edit'] * 2 + ['storyboard'] * 2
  assert {len(case.expected) for case in cases[2:]} == {2}
  with pytest.raises(UserError, match="--tasks = 'edits': drawn tasks are"):
    make_cases(tiny_config, 'edits', prompts=1, images=1, seed=0)


def test_sources_of_one_task_take_turns(tiny_config):
  for name, count in (('pair', '1'), ('image', '2')):
    tiny_config.data.sources[name].update(task='reference', path='reference',
                                          fields=(('count', count),))
  cases = make_cases(tiny_config, '', prompts=4, images=1, seed=0)
  assert [(case.task, len(case.inputs)) for case in cases] == [
      ('reference', 2), ('reference', 1)] * 2
  assert len({case.text + str(case.inputs[0].tobytes()) for case in cases}) == 4


def test_random_weights_are_other_weights(workdir):
  first, second = (np.asarray(Image.open(f'{workdir}/samples/{name}.png'))
                   for name in ('evaluation', 'evaluation_untrained'))
  assert first.shape == second.shape == (10 * 18 - 2, 2 * 18 - 2, 3)
  assert (first != second).any()


def test_the_same_images_are_given_in_another_role_and_the_words_in_another_language(tiny_config):
  def make(**options):
    return make_cases(tiny_config, 'reference', prompts=3, images=1, seed=0, **options)

  by_role = {role: make(given=role) for role in ('source', 'reference')}
  for source, reference in zip(*by_role.values(), strict=True):
    assert source.text == reference.text and len(source.inputs) == 1
    np.testing.assert_array_equal(source.inputs[0], reference.inputs[0])
    roles = [[part.role for part in case.requests[0].sample.images] for case in (source, reference)]
    assert roles == [['source', 'target'], ['reference', 'target']]
  assert all(any('\u4e00' <= letter <= '\u9fff' for letter in case.text)
             for case in make(language='zh'))
  with pytest.raises(UserError, match="--language: languages = 'de': use en or zh"):
    make(language='de')
  with pytest.raises(UserError, match="--language = 'zh': captions are English"):
    make_cases(tiny_config, 'captions', prompts=1, images=1, seed=0, language='zh')


@pytest.mark.parametrize('copied, share', [(0, 0.0), (1, 0.5), (2, 1.0)])
def test_images_nearer_to_what_was_given_are_copies(copied, share, tiny_config):
  cases = make_cases(tiny_config, 'edit', prompts=2, images=1, seed=0)
  images = [[case.inputs[0] if index < copied else case.expected[0]]
            for index, case in enumerate(cases)]
  assert evaluation._copies(cases, images) == {'edit': share}


@pytest.mark.parametrize('options', [dict(prompts=0, images_per_prompt=1),
                                     dict(prompts=1, images_per_prompt=0)])
def test_counts_must_be_positive(options):
  with pytest.raises(UserError, match='= 0: use at least 1'):
    evaluation.evaluate('anywhere', **options)


def test_shown_samples_are_spread():
  assert evaluation._spread(list(range(3))) == [0, 1, 2]
  assert evaluation._spread(list(range(100, 116))) == list(range(100, 116, 2))
