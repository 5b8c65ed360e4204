"""Two runs on one page: what differs, and the same problems next to each other."""

import json

import pytest

from jaxgen.config import base_config
from jaxgen.config import to_json
from jaxgen.core.errors import UserError
from jaxgen.evaluation.side_by_side import write_comparison
from tests.evaluation.test_report import Checker
from tests.evaluation.test_report import write_evaluation
from tests.evaluation.test_report import write_run


@pytest.fixture
def runs(tmp_path):
  """Two runs of two stages; the second has half the rate, more steps, and a right circle."""
  for name, steps in (('first', 10), ('second', 20)):
    for began, stage in enumerate(('pretrain', 'finetune')):
      write_run(tmp_path / name / stage, steps, began=1000 + began)
    write_evaluation(tmp_path / name / 'finetune')
  config = base_config()
  config.optimizer.learning_rate = 5e-5
  (tmp_path / 'second/finetune/config.json').write_text(to_json(config))
  file = tmp_path / 'second/finetune/evaluation.json'
  found = json.loads(file.read_text())
  found['score'] |= dict(overall=0.75, colors=1.0)
  found['samples'][0]['correct'] = True
  file.write_text(json.dumps(found))
  return tmp_path / 'first', tmp_path / 'second'


def test_the_page_shows_both_runs_and_what_differs(runs):
  first, second = runs
  page = write_comparison(str(first), str(second))
  assert page == str(first / 'against_second.html')
  text = (first / 'against_second.html').read_text()
  checker = Checker()
  checker.feed(text)
  assert not checker.open
  assert all(link.startswith('data:image/png;base64,') for link in checker.links)
  assert '<td>overall score</td><td>0.500</td><td>0.750</td><td>-0.250</td>' in text
  assert '<td>optimizer steps</td><td>20</td><td>40</td><td>-20</td>' in text
  assert '<td>seconds of all stages</td><td>–</td><td>–</td><td>–</td>' in text
  assert ('<td>optimizer.learning_rate</td><td>0.0001</td><td>5e-05</td>') in text
  assert text.count('The configs are equal.') == 1  # those of pretrain
  assert text.count('<svg') == 2 and text.count('class="mean curve1"') == 2
  assert '<table class="pairs"><tr><th></th><th>first</th><th>second</th></tr>' in text
  assert len(checker.images) == 2 and text.index('✗ wrong') < text.index('✓ right')


def test_curves_that_both_have_logged_are_drawn(runs):
  for root, values in zip(runs, ([3.0, 2.0], [2.0, 1.0])):
    (root / 'finetune/metrics.jsonl').write_text(''.join(json.dumps(
        {'step': step, 'loss': None, 'validation/loss': value, f'validation/{root.name}': value}
    ) + '\n' for step, value in enumerate(values, 1)))
  write_comparison(*map(str, runs))
  text = (runs[0] / 'against_second.html').read_text()
  assert '<h3>validation/loss</h3>' in text and 'validation/first' not in text
  assert text.count('nothing was logged') == 1


def test_stages_of_other_names_are_compared_by_their_ends(runs):
  (runs[1] / 'pretrain').rename(runs[1] / 'mllm')
  (runs[1] / 'finetune').rename(runs[1] / 'align')
  write_comparison(*map(str, runs))
  assert '<h2>finetune and align</h2>' in (runs[0] / 'against_second.html').read_text()


def test_a_run_that_is_not_there_is_named_by_its_flag(runs, tmp_path):
  with pytest.raises(UserError, match="^--against = '.*': holds no metrics.jsonl"):
    write_comparison(str(runs[0]), str(tmp_path / 'none'))
