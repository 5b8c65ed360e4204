"""The table of an ablation: means over the seeds, and how much a loss swings."""

import json

import pytest

from jaxgen import cli
from jaxgen.config import base_config
from jaxgen.config import to_json

STEPS = 80


def write_run(folder, losses, score):
  folder.mkdir(parents=True)
  (folder / 'config.json').write_text(to_json(base_config()))
  (folder / 'metrics.jsonl').write_text(''.join(
      json.dumps(dict(step=step, loss=loss)) + '\n' for step, loss in enumerate(losses, start=1)))
  if score is not None:
    write_scores(folder / 'evaluation.json', edit=score, style=0.5)


def write_scores(file, others=(), **score):
  overall = sum(score.values()) / len(score)
  file.write_text(json.dumps(dict(score=score | dict(overall=overall), samples=[]) | dict(others)))


def test_table(tmp_path, capsys):
  steady, swings = [0.5] * STEPS, [0.4, 0.4, 0.4, 0.4, 0.6, 0.6, 0.6, 0.6] * (STEPS // 8)
  for seed, score in ((0, 0.25), (10, 0.5), (2, 0.75)):
    write_run(tmp_path / f'seed{seed}/pretrain', steady, None)  # not scored, not in the table
    write_run(tmp_path / f'seed{seed}/flat', swings, score)
    write_run(tmp_path / f'seed{seed}/cocktail', steady, 1.0)
  cli.main(['report', f'--workdir={tmp_path}'])
  assert capsys.readouterr().out == f'{tmp_path}/table.md\n'
  head, _, *rows = [[cell.strip() for cell in line.split('|')[1:-1]]
                    for line in (tmp_path / 'table.md').read_text().splitlines()]
  assert head == ['run', 'seeds', 'overall', 'edit', 'style', 'copies', 'loss',
                  'swing of the loss']
  assert sorted(rows) == [
      ['cocktail', '3', '0.750 ± 0.000', '1.000', '0.500', '–', '0.5000', '0.0%'],
      ['flat', '3', '0.500 ± 0.125', '0.500', '0.500', '–', '0.5200', '40.0%']]


def test_a_single_seed_has_no_deviation(tmp_path):
  write_run(tmp_path / 'seed3/flat', [1.0, None, 1.0], 0.25)
  cli.main(['report', f'--workdir={tmp_path}'])
  text = (tmp_path / 'table.md').read_text()
  assert '| flat | 1 | 0.375 | 0.250 | 0.500 | – | 1.0000 | 0.0% |' in text


def test_scores_in_other_roles_have_lines_of_their_own(tmp_path):
  write_run(tmp_path / 'seed0/rank', [1.0], 0.5)
  write_scores(tmp_path / 'seed0/rank/evaluation_source.json', edit=0.25,
               others=dict(copies=dict(edit=0.75, style=0.25)))
  write_scores(tmp_path / 'seed0/rank/evaluation_source_zh.json', style=1.0)
  write_scores(tmp_path / 'seed0/rank/evaluation_untrained.json', edit=0.0)
  cli.main(['report', f'--workdir={tmp_path}'])
  rows = [line.split(' | ')[:6] for line in (tmp_path / 'table.md').read_text().splitlines()[2:]]
  assert rows == [['| rank', '1', '0.500', '0.500', '0.500', '–'],
                  ['| rank, source', '1', '0.250', '0.250', '–', '0.500'],
                  ['| rank, source zh', '1', '1.000', '–', '1.000', '–']]


def test_marks_of_images_are_means_over_the_tasks_that_have_them(tmp_path):
  for seed, kept in ((0, 0.25), (1, None)):
    write_run(tmp_path / f'seed{seed}/align', [1.0], 0.5)
    details = dict(edit=dict(consistent=kept), style=dict(consistent=0.75, identity=0.5))
    write_scores(tmp_path / f'seed{seed}/align/evaluation.json', edit=0.5, style=0.5,
                 others=dict(details=details))
  write_run(tmp_path / 'seed0/flat', [1.0], 0.25)
  cli.main(['report', f'--workdir={tmp_path}'])
  head, _, *rows = (line.split(' | ')[5:7]
                    for line in (tmp_path / 'table.md').read_text().splitlines())
  assert head == ['consistent', 'identity']
  assert sorted(rows) == [['0.625', '0.500'], ['–', '–']]


@pytest.mark.parametrize('folder', ['seed', 'seeds', 'seed1a'])
def test_other_names_are_runs(tmp_path, folder):
  write_run(tmp_path / folder, [1.0], 0.25)
  cli.main(['report', f'--workdir={tmp_path}'])
  assert (tmp_path / 'report.html').exists() and not (tmp_path / 'table.md').exists()
