"""Benchmarks of dialogues: a tiny DuetGen writes and draws their documents, which are judged."""

import json

import pytest
from PIL import Image

from jaxgen import cli
from tests.sampling.scripted import save_run

TITLES = ('How to tie a tie', 'How to fold a paper boat', 'How to bake bread')


@pytest.fixture(scope='module')
def root(tmp_path_factory, tiny_tokenizer):
  """A run with random weights, guides to write and questions of CoMM, one with an image."""
  root = tmp_path_factory.mktemp('documents')
  save_run(root, tiny_tokenizer)
  guides = [dict(id=f'g{number}', title=title, category='Home')
            for number, title in enumerate(TITLES)]
  guides[1]['image'] = 'mine.jpg'
  (root / 'prompts.jsonl').write_text('\n'.join(map(json.dumps, guides)))
  (root / 'test.json').write_text(json.dumps([
      dict(id='d', task='task3', model_input='Step 1. Cut it. <IMAGE>', images=['mine.jpg']),
      dict(id='d', task='task4', model_input='How do I fold it?', images=[])]))
  rubrics = root / 'rubrics'
  rubrics.mkdir()
  (rubrics / 'how_to.txt').write_text('{document} [echo ' + json.dumps(dict(scores=dict(
      text_completeness=3, image_completeness=4, image_coherence=5, image_quality=2,
      image_text_coherence=1))) + ']')
  return root


def words(root, out, *more, benchmark='how-to'):
  return ['evaluate', f'--workdir={root / "run"}', f'--benchmark={benchmark}', f'--data={root}',
          f'--out={out}', '--images=1', '--max-tokens=6', '--seed=3', *more]


def files(folder):
  return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob('*')
          if file.suffix in ('.png', '.jpg') or file.name == 'parts.json'}


def test_guides_are_drawn_judged_and_gone_on_with(root, endpoint, key, tmp_path, capsys):
  """One of two processes has drawn a third of them; one document is lost; the rest is drawn, and
  what was there is left alone."""
  whole, parts = tmp_path / 'whole', tmp_path / 'parts'
  assert cli.main(words(root, whole, '--judge=judge', f'--judge-url={endpoint.url}',
                        f'--rubrics={root}/rubrics')) == 0
  drawn = files(whole)
  assert {name for name in drawn if name.endswith('.json')} == {
      f'g{number}/parts.json' for number in range(3)}
  for number in range(3):
    document = json.loads(drawn[f'g{number}/parts.json'])
    assert document.count(0) == 1 and Image.open(whole / f'g{number}/0.png').size == (16, 16)
  assert len({drawn[f'g{number}/0.png'] for number in range(3)}) == 3
  record = json.loads((whole / 'scores.json').read_text())
  assert record['table']['overall']['value'] == pytest.approx(3) and not record['missing']
  assert record['drawn']['images'] == 1 and record['drawn']['max_tokens'] == 6
  assert cli.main(words(root, parts, '--num-processes=2', '--process-id=1')) == 0
  assert set(files(parts)) == {'g1/parts.json', 'g1/0.png'}
  kept = (parts / 'g1/0.png').stat().st_mtime_ns
  assert cli.main(words(root, parts)) == 0
  assert files(parts) == drawn and (parts / 'g1/0.png').stat().st_mtime_ns == kept
  capsys.readouterr()
  assert cli.main(words(root, parts, '--max-images=3')) == 1
  assert 'drawn with max_images = 8, and not 3' in capsys.readouterr().err


def test_comm_has_the_files_of_its_scorer(root, tmp_path):
  assert cli.main(words(root, tmp_path, benchmark='comm')) == 0
  for name in ('d_task3', 'd_task4'):
    written = json.loads((tmp_path / name / 'results.json').read_text())
    assert written['prediction_image_list'] == ['predict_0.jpg']
    assert '<IMAGE>' in written['model_output']
    assert Image.open(tmp_path / name / 'predict_0.jpg').size == (16, 16)
  assert written['input_image_list'] == []
