"""Evaluation of a run that answers dialogues: what it writes and draws, its marks, the report."""

import json
import pathlib

import numpy as np
import pytest
from PIL import Image

from jaxgen.config import source
from jaxgen.config import to_json
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.evaluation import evaluate as evaluation
from jaxgen.evaluation.report import write_report
from jaxgen.evaluation.shapes.dialogues import mark_answer
from jaxgen.sampling.load import Run
from tests.sampling.scripted import duetgen
from tests.sampling.scripted import random_params
from tests.sampling.scripted import scripted

TASK = 'session'


@pytest.fixture(scope='module')
def evaluated(tmp_path_factory, tiny_tokenizer):
  """A run that says what is due and draws noise: ``(workdir, its record, problem, sample)``."""
  config = duetgen(tiny_tokenizer)
  config.data.prompt_tokens = 800  # the tokenizer knows few words of the task
  config.data.sources = {'dialogues': source('shapes', 'conversation', path=TASK,
                                             fields=(('count', '2'),))}
  problem, sample = DrawnSource(TASK, Settings(((16, 16),), count=(2, 2)), 'test').drawn(0)
  system, maker = scripted(config, [sample])
  run = Run(config, system, random_params(config), maker)
  workdir = tmp_path_factory.mktemp('runs') / 'run'
  workdir.mkdir()
  (workdir / 'config.json').write_text(to_json(config))
  (workdir / 'metrics.jsonl').write_text('{"step": 1, "loss": 1.0}\n')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(evaluation, 'load_run', lambda *_: run)
    evaluation.evaluate(str(workdir), prompts=1, images_per_prompt=1)
  return workdir, json.loads((workdir / 'evaluation.json').read_text()), problem, sample


def test_record(evaluated):
  workdir, record, problem, sample = evaluated
  assert record['score'] == {TASK: 0.0, 'overall': 0.0} == record['copied']
  details = record['details'][TASK]
  assert [details[name] for name in ('order', 'text', 'exact', 'grammar')] == [1, 1, 1, 1]
  assert details['image'] == 0.0 and details['cells'] < 1
  entry, = record['samples']
  due = [part.text for part in sample.texts if part.role == 'assistant']
  assert entry['texts'] == [[text, text] for text in due] and record['images'] == 2
  assert entry['caption'] == sample.texts[0].text and entry['columns'] == 3
  strip = np.asarray(Image.open(workdir / entry['file']))
  drawn = [strip[:16, column * 18:][:, :16] for column in (1, 2)]
  answer = [part for pair in zip(due, drawn) for part in pair] + due[-1:]
  assert entry['marks'] == json.loads(json.dumps(mark_answer(answer, problem)))
  for column, part in enumerate(sample.images):
    row = 0 if column == 0 else 18
    np.testing.assert_array_equal(strip[row:row + 16, column * 18:][:, :16], part.image)


def test_report(evaluated):
  workdir, _, _, sample = evaluated
  page = pathlib.Path(write_report(str(workdir))).read_text()
  for part in sample.texts[1:]:
    assert f'<li class="good">{part.text}</li>' in page
  assert '<th>order</th><th>text</th><th>exact</th>' in page.replace('<th>image</th>', '')
  entry, = json.loads((workdir / 'evaluation.json').read_text())['samples']
  entry['texts'] = [['step 1: <b>', 'step 1: add.'], [None, 'done.'], ['more', None]]
  (workdir / 'evaluation.json').write_text(json.dumps(dict(
      json.loads((workdir / 'evaluation.json').read_text()), samples=[entry])))
  page = pathlib.Path(write_report(str(workdir))).read_text()
  for written, due in (('step 1: &lt;b&gt;', 'step 1: add.'), ('nothing', 'done.'),
                       ('more', 'nothing')):
    assert f'<li class="bad">{written} <span class="dim">due: {due}</span></li>' in page
