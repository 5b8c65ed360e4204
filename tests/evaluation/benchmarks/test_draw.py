"""A tiny system draws slices of real prompt files into official folders, and they are scored."""

import csv
import dataclasses
import json
import pathlib
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from jaxgen import cli
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.evaluation.benchmarks import draw
from jaxgen.evaluation.benchmarks import prompts
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.commands import evaluate_benchmark
from jaxgen.evaluation.benchmarks.commands import Judging
from jaxgen.evaluation.benchmarks.files import Data
from jaxgen.evaluation.benchmarks.pages import write_comparison
from jaxgen.evaluation.benchmarks.registry import benchmark
from jaxgen.evaluation.benchmarks.registry import ORIGINS
from jaxgen.evaluation.judge import Judge
from jaxgen.sampling.load import load_run
from jaxgen.sampling.load import trained
from jaxgen.systems.registry import make_system

PROMPTS = pathlib.Path(__file__).parent / 'prompts'
ONCE = draw.Settings(seed=3)


@pytest.fixture(scope='module')
def workdir(tmp_path_factory, tiny_base):
  """Random weights of a system that is shown images, where a run would have trained ones."""
  folder = str(tmp_path_factory.mktemp('runs') / 'run')
  config = tiny_base.copy_and_resolve_references()
  config.data.update(clean_roles=('source', 'reference'), prompt_tokens=512, visual_tokens=256,
                     patches=64)
  config.sampling.update(steps=1, guidance=1.0, rows=24)
  rng = np.random.default_rng(0)
  params = trees.map_named(lambda _, leaf: np.float32(rng.normal(0, 0.2, leaf.shape)),
                           make_system(config).shapes())
  save_weights(folder, params, to_json(config))
  return folder


@pytest.fixture(scope='module')
def run(workdir):
  """The run, read once."""
  return load_run(workdir)


def items_of(name, folder, out=''):
  data = Data(str(folder), name, ORIGINS[name], f'{out}/inputs')
  return draw.numbered(benchmark(name).read(data))


def files_in(folder):
  return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob('*')
          if file.is_file()}


def test_geneval_is_drawn_once_by_all_processes_and_goes_on_where_it_was_killed(run, tmp_path):
  """One of two processes draws the images that a single one would, for three of six prompts; one
  image is lost; a single process then draws what is not there, and no more."""
  items = items_of('geneval', PROMPTS / 'geneval')
  whole, half = tmp_path / 'whole', tmp_path / 'half'
  assert draw.draw(run, items, str(whole), ONCE) == 6 * 4
  assert draw.draw(run, items, str(half), ONCE, share=(1, 2)) == 3 * 4
  drawn = files_in(whole)
  assert drawn.keys() == {f'{number:05d}/samples/{image:04d}.png'
                          for number in range(6) for image in range(4)}
  assert files_in(half) == {name: data for name, data in drawn.items() if int(name[:5]) % 2}
  assert len(set(drawn.values())) == len(drawn)  # four images of a prompt are four
  (half / '00003/samples/0002.png').unlink()
  assert draw.draw(run, items, str(half), ONCE) == 3 * 4 + 1
  assert files_in(half) == drawn
  assert draw.draw(run, items, str(half), ONCE) == 0


@pytest.mark.slow
def test_a_process_that_is_killed_loses_nothing_that_it_has_written(workdir, tmp_path):
  """Killed between two batches of eight images; the rest is drawn by a second process."""
  slow = tmp_path / 'run'
  shutil.copytree(workdir, slow)
  config = json.loads((slow / 'config.json').read_text())
  config['sampling']['rows'] = 1
  (slow / 'config.json').write_text(json.dumps(config))
  words = [sys.executable, '-m', 'jaxgen.cli', 'evaluate', f'--workdir={slow}',
           '--benchmark=geneval', f'--data={PROMPTS / "geneval"}']
  out = tmp_path / 'out'
  with subprocess.Popen([*words, f'--out={out}']) as process:
    while len(list(out.rglob('*.png'))) < 8 and process.poll() is None:
      time.sleep(0.01)
    process.kill()
  drawn = {file: file.stat().st_mtime_ns for file in out.rglob('*.png')}
  assert 8 <= len(drawn) < 24
  for folder in (out, tmp_path / 'whole'):
    subprocess.run([*words, f'--out={folder}'], check=True)
  assert {file: file.stat().st_mtime_ns for file in drawn} == drawn
  found, whole = ({name: data for name, data in files_in(folder).items() if name.endswith('.png')}
                  for folder in (out, tmp_path / 'whole'))
  assert found == whole and len(found) == 24


def test_what_stands_beside_the_images_of_geneval(tmp_path):
  items = items_of('geneval', PROMPTS / 'geneval')
  draw.write_beside(benchmark('geneval'), items, str(tmp_path))
  lines = (PROMPTS / 'geneval/evaluation_metadata.jsonl').read_text().splitlines()
  written = files_in(tmp_path)
  assert written.keys() == {'items.json', *(f'{number:05d}/metadata.jsonl' for number in range(6))}
  for number, line in enumerate(lines):
    assert json.loads(written[f'{number:05d}/metadata.jsonl']) == json.loads(line)


def test_a_slice_keeps_the_places_of_its_items():
  groups = [Item(str(number), group, '', ()) for number, group in enumerate('aabab')]
  assert [number for number, _ in draw.numbered(groups, limit=1)] == [0, 2]


def test_dpg_is_a_grid_and_its_questions_are_asked_of_each_image(workdir, endpoint, key, tmp_path,
                                                                 capsys):
  """One item has two questions: the second one is denied; a reply that is no answer is missing."""
  data = tmp_path / 'data'
  shutil.copytree(PROMPTS / 'dpg', data)
  keys = [json.loads(line)['item_id'] for line in (data / 'prompts.jsonl').read_text().splitlines()]
  with open(data / 'dpg_bench.csv', 'w', newline='') as file:
    writer = csv.writer(file)
    writer.writerow(['item_id', 'proposition_id', 'dependency', 'tuple',
                     'question_natural_language'])
    writer.writerows([('other', 1, 0, 'entity (x)', 'x'),
                      (keys[0], 1, 0, 'entity (a)', 'Is it there? [echo yes]'),
                      (keys[0], 2, 1, 'entity (b)', 'Is it red? [echo No.]'),
                      (keys[1], 1, 0, 'entity (a)', 'Is it there? [echo perhaps]')])
  found = evaluate_benchmark('dpg', str(data), str(tmp_path / 'out'),
                             open_origin=lambda: trained(workdir),
                             judging=Judging('judge', endpoint.url))
  assert found['table']['overall'] == dict(value=50, low=50, high=50, count=1, missing=4)
  assert list(found['missing']) == [f'{keys[1]}: {crop}/1' for crop in range(4)]
  said = capsys.readouterr().out
  assert 'overall                          50  [50, 50]  of 1  4 missing' in said
  assert '4 replies could not be read' in said
  grid = np.asarray(Image.open(tmp_path / 'out/images' / f'{keys[0]}.png'))
  assert grid.shape == (32, 32, 3)
  quarters = {grid[top:top + 16, left:left + 16].tobytes() for top in (0, 16) for left in (0, 16)}
  assert len(quarters) == 4


@pytest.fixture(scope='module')
def edits(tmp_path_factory):
  """GEdit's instructions with images of our own, and rubrics that make the endpoint answer."""
  data = tmp_path_factory.mktemp('gedit')
  shutil.copytree(PROMPTS / 'gedit', data, dirs_exist_ok=True)
  rng = np.random.default_rng(0)
  for record in json.loads((data / 'gedit_edit.json').read_text()).values():
    file = data / record['id']
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(file)
  rubrics = data / 'rubrics'
  rubrics.mkdir()
  (rubrics / 'gedit_consistency.txt').write_text(
      '<instruction> [echo {"score": [9, 4], "reasoning": ""}]')
  (rubrics / 'gedit_quality.txt').write_text('Look. [echo {"score": [9, 9]}]')
  return data


def test_gedit_from_the_command_line(workdir, edits, endpoint, key, tmp_path, capsys):
  """Drawn, judged, paged; then scored again without a network; then refused with another seed."""
  out = tmp_path / 'out'
  words = ['evaluate', '--benchmark=gedit-en', f'--data={edits}', f'--out={out}']
  judged = [*words, '--judge=judge', f'--rubrics={edits / "rubrics"}', '--judge-prices=2.5:10']
  assert cli.main([*judged, f'--workdir={workdir}', f'--judge-url={endpoint.url}']) == 0
  record = json.loads((out / 'scores.json').read_text())
  assert record['table']['G_O']['value'] == pytest.approx(6)
  assert record['by']['questions'] == 8 and record['by']['tokens'] == [80, 24]
  assert record['by']['dollars'] == pytest.approx((80 * 2.5 + 24 * 10) / 1e6)
  assert record['by']['judge'] == 'judge' and record['by']['official_judge'] == 'gpt-4.1'
  assert record['by']['served'] == ['judge-1']
  assert record['drawn']['wordings'] == 'official'
  for key_, entry in json.loads((edits / 'gedit_edit.json').read_text()).items():
    folder = out / 'fullset' / entry['edit_type'] / 'en'
    assert np.asarray(Image.open(folder / f'{key_}.png')).shape == (16, 16, 3)
    assert (folder / f'{key_}_SRCIMG.png').read_bytes() == (edits / entry['id']).read_bytes()
  page = (out / 'report.html').read_text()
  assert 'scored by judge; answered by judge-1; the authors score with gpt-4.1' in page
  assert 'G_O' in page and '7.66' in page and page.count('<figure') == 4  # the paper's beside ours
  assert '| G_O | 6 [6, 6] |' in (out / 'report.md').read_text()
  asked = endpoint.stats()['calls']
  capsys.readouterr()
  assert cli.main([*judged, '--replay']) == 0
  assert endpoint.stats()['calls'] == asked and 'G_O' in capsys.readouterr().out
  assert json.loads((out / 'scores.json').read_text())['table'] == record['table']
  assert cli.main([*words, f'--workdir={workdir}', '--seed=1']) == 1
  assert 'its images are drawn with seed = 0, and not 1; choose another --out' in (
      capsys.readouterr().err)


def test_results_are_compared_on_one_page(tmp_path):
  """Our numbers, the paper's, who judged, what is missing, the best and worst image of each; in
  tables of their own where other judges, rubrics, towers or masks have scored."""
  def result(name, rubric, value, **by):
    (tmp_path / name).mkdir()
    for item in 'xy':
      Image.new('RGB', (8, 8), 'red').save(tmp_path / name / f'{item}.png')
    (tmp_path / name / 'scores.json').write_text(json.dumps(dict(
        benchmark='gedit-en', items=2, drawn={}, papers={'Query-Kontext': dict(G_O=7.66)},
        by=dict(judge='a judge', official_judge='gpt-4.1', rubrics=dict(a=rubric),
                dates=['2026-01-02T', '2026-01-03T'], **by), missing={'z: quality': 'cut short'},
        table=dict(G_O=dict(value=value, low=value, high=value, count=2, missing=1)),
        scores=[dict(item=item, text=f'{name} {item}', files=[f'{item}.png'],
                     scores=dict(quality=score)) for item, score in (('x', 1), ('y', 9))])))
    return str(tmp_path / name)

  first, second, other = result('a', 'x', 6), result('b', 'x', 7), result('c', 'y', 8)
  masked = result('d', 'x', 9, towers=dict(dino='one'), masks='none')
  others = result('e', 'x', 5, towers=dict(dino='one', clip='two'), masks='mask2former')
  page = pathlib.Path(write_comparison([first, second], str(tmp_path / 'out')))
  text = page.read_text()
  assert '<td>6 [6, 6] (1 missing)</td><td>7 [7, 7] (1 missing)</td><td>7.66</td>' in text
  assert text.count('scored by a judge; the authors score with gpt-4.1; replies of 2026-01-02 to '
                    '2026-01-03') == 2 and text.count('1 scores missing') == 2
  for name in 'ab':
    best, worst = (text.index(f'<h2>{which} of {name}</h2>') for which in ('Best', 'Worst'))
    assert best < text.index(f'{name} y<br>') < worst < text.index(f'{name} x<br>')
  assert text.count('src="data:image/jpeg;base64,') == 4
  said = page.with_suffix('.md').read_text()
  assert '| G_O | 6 [6, 6] (1 missing) | 7 [7, 7] (1 missing) | 7.66 |' in said
  assert 'a: scored by a judge' in said
  assert json.loads(page.with_suffix('.json').read_text())['runs']['b']['table']['G_O'][
      'value'] == 7
  assert 'Compare numbers within' not in text + said and text.count('<table>') == 1
  write_comparison([first, other, masked, others], str(tmp_path / 'out'))
  text, said = page.read_text(), page.with_suffix('.md').read_text()
  line = ('Compare numbers within a table only, as the runs were scored by different means: '
          'rubric a x of a and d and e, y of c; masks none of d, mask2former of e')
  assert f'<p><b>{line}</b></p>' in text and f'**{line}**' in said
  assert text.count('<table>') == 3 and text.count('<td>7.66</td>') == 3
  assert '<th>a</th><th>d</th><th>Query-Kontext</th>' in text
  assert '| metric | c |' in said and '| metric | e |' in said
  assert json.loads(page.with_suffix('.json').read_text())['alike'] == [['a', 'd'], ['c'], ['e']]


def test_dreambench_is_drawn_from_references(workdir, tmp_path):
  """Two of them each; scores come from a file of cosines."""
  data = tmp_path / 'data'
  shutil.copytree(PROMPTS / 'dreambench', data)
  records = json.loads((data / 'dreambench_multiip.json').read_text())
  for path in {path for record in records for path in record['image_paths']}:
    (data / path).parent.mkdir(parents=True, exist_ok=True)
    Image.new('RGB', (20, 20), 'red').save(data / path)
  cosines = tmp_path / 'cosines.json'
  cosines.write_text(json.dumps({'0': dict(dino=0.5, clip_t=0.3)}))
  found = evaluate_benchmark('dreambench-multi', str(data), str(tmp_path / 'out'),
                             open_origin=lambda: trained(workdir),
                             judging=Judging(embeddings=str(cosines)))
  assert found['table']['dino'] == dict(value=0.5, low=0.5, high=0.5, count=1, missing=1)
  assert {file.name for file in (tmp_path / 'out').glob('*_0.*')} == {
      '0_0.png', '0_0.json', '1_0.png', '1_0.json'}


def test_prompts_are_rewritten_and_that_is_recorded(endpoint, key, tmp_path):
  """By a language model, whose words are kept, or by a file; never mixed with the official ones."""
  items = [item for _, item in items_of('geneval', PROMPTS / 'geneval')][:2]
  rubric = tmp_path / 'loud.txt'
  rubric.write_text('{prompt} [echo a bench, drawn loudly]')
  writer = Judge('writer', tmp_path / 'prompts.jsonl', url=endpoint.url)
  found = prompts.rewritten(items, str(tmp_path), writer, str(rubric))
  assert [item.wording for item in found] == ['a bench, drawn loudly'] * 2
  assert [item.text for item in found] == [item.text for item in items]  # what the judge is told
  kept = json.loads((tmp_path / 'prompts.json').read_text())
  assert kept['00000'] == dict(prompt='a photo of a bench', wording='a bench, drawn loudly')
  rubric.write_text('{prompt} [cut]')
  with pytest.raises(UserError, match='gave no whole text for 00000'):
    prompts.rewritten(items, str(tmp_path), writer, str(rubric))
  file = tmp_path / 'own.json'
  file.write_text(json.dumps({'a photo of a bench': 'a bench'}))
  assert prompts.from_file(items[:1], str(file))[0].wording == 'a bench'
  with pytest.raises(UserError, match='has no text for 00001'):
    prompts.from_file(items, str(file))
  draw.check_record(str(tmp_path / 'out'), dict(wordings='official'))
  with pytest.raises(UserError, match="drawn with wordings = 'official', and not 'writer by loud'"):
    draw.check_record(str(tmp_path / 'out'), dict(wordings='writer by loud'))


def test_a_wording_is_drawn_in_place_of_the_prompt(run):
  _, item = items_of('geneval', PROMPTS / 'geneval')[0]
  worded = dataclasses.replace(item, wording='a bench, drawn loudly')
  first, *_ = draw.requests_of(run.config, worded, 0, ONCE)
  assert [part.text for part in first.sample.texts] != [
      part.text for part in draw.requests_of(run.config, item, 0, ONCE)[0].sample.texts]
  assert 'a bench, drawn loudly' in first.sample.texts[0].text


@pytest.mark.parametrize('words, said', [
    (['--benchmark=dpg', '--judge=judge'], "--judge = 'judge': "),  # there is no key
    (['--benchmark=geneval', '--judge=judge'], "--judge = 'judge': geneval is scored by det"),
    (['--benchmark=geneval', '--detector=no-such-thing'], "--detector = 'no-such-thing': no such"),
    (['--benchmark=geneval', '--detector=grounded_sam --device=cpu'],
     "--detector = 'grounded_sam --device=cpu': grounded_sam is for --masks only; give "
     'mask2former or a command'),
    (['--benchmark=dpg', '--detector=mask2former'], 'does not score dpg; leave it out'),
    (['--benchmark=dreambench-multi', '--masks=x'], 'does not score dreambench-multi; leave it'),
    (['--benchmark=storyboard', '--dino=x', '--masks=y'],
     "--masks = 'y': no such program; give mask2former, grounded_sam or a command"),
    (['--benchmark=geneval', '--detector="'], "--detector = '\"': no such program"),
    (['--benchmark=dreambench-multi', '--embeddings=none.json'], 'none.json: damaged'),
    (['--benchmark=dpg', '--rubrics=none'], "--rubrics = 'none': no such folder"),
    (['--benchmark=dpg', '--judge-prices=2'], "--judge-prices = '2': write READ:WRITTEN"),
    (['--benchmark=geneval', '--size=15x16'], '00000: size = (15, 16): both sides must be'),
    (['--benchmark=dpg'], 'tokens, more than config.data.prompt_tokens = 55'),
    (['--benchmark=geneval', '--max-images=2'], '--max-images = 2: is of documents, and geneval'),
    (['--benchmark=how-to', '--data=GUIDES', '--size=15x16'], 'size = (15, 16): both sides must be'),
    (['--benchmark=geneval', '--out=OLD'], "its images are drawn with benchmark = 'dpg', and not")])
def test_mistakes_are_said_before_the_weights_are_read(words, said, workdir, tmp_path, capsys,
                                                       monkeypatch):
  """The run has a config and no weights, of which nothing is said."""
  monkeypatch.delenv('OPENAI_API_KEY', raising=False)
  config = json.loads((pathlib.Path(workdir) / 'config.json').read_text())
  config['data']['prompt_tokens'] = 55
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/config.json').write_text(json.dumps(config))
  draw.check_record(str(tmp_path / 'old'), dict(benchmark='dpg'))
  data = tmp_path / 'data'
  for name in ('geneval', 'dpg', 'dreambench'):
    shutil.copytree(PROMPTS / name, data, dirs_exist_ok=True)
  (data / 'dpg_bench.csv').write_text('item_id,proposition_id,dependency,tuple,'
                                      'question_natural_language\n')
  (data / 'guides').mkdir()
  (data / 'guides/prompts.jsonl').write_text('{"id": "g", "title": "How to tie a tie"}')
  for record in json.loads((data / 'dreambench_multiip.json').read_text()):
    for path in record['image_paths']:
      (data / path).parent.mkdir(parents=True, exist_ok=True)
      Image.new('RGB', (20, 20)).save(data / path)
  out = [] if '--out=OLD' in words else [f'--out={tmp_path}/out']
  words = [word.replace('OLD', f'{tmp_path}/old').replace('GUIDES', f'{data}/guides')
           for word in words]
  assert cli.main(['evaluate', f'--workdir={tmp_path}/run', f'--data={data}', *out, *words]) == 1
  errors = capsys.readouterr().err.splitlines()
  assert len(errors) == 1 and said in errors[0], errors


@pytest.mark.parametrize('name', list(ORIGINS))
def test_missing_files_say_where_to_get_them(name, tmp_path, capsys):
  words = ['evaluate', f'--benchmark={name}', f'--data={tmp_path}', f'--out={tmp_path}/out']
  assert cli.main(words) == 1
  said = capsys.readouterr().err
  assert said.count('\n') == 1 and said.startswith(f"jaxgen: --data = '{tmp_path}': {name} needs ")
  assert f'from {ORIGINS[name]}' in said


@pytest.mark.parametrize('words, said', [
    (['--benchmark=genval', '--out=OUT'], "--benchmark = 'genval': use one of geneval, "),
    (['--benchmark=geneval'], '--out: name a folder for the results'),
    ([], '--workdir: name the run'),
    (['--benchmark=geneval', '--out=OUT', '--process-id=2', '--num-processes=2'],
     '--process-id = 2: use 0 to 1'),
    (['--benchmark=geneval', '--out=OUT', f'--data={PROMPTS / "geneval"}', '--prompts-file=none'],
     "--prompts-file = 'none': no such file"),
    (['--benchmark=geneval', '--out=OUT', f'--data={PROMPTS / "geneval"}', '--against=x'],
     "--against = 'x': is for --benchmark=opening with a --judge"),
    (['--benchmark=geneval', '--out=OUT', '--concurrency=0'], '--concurrency = 0: use at least 1')])
def test_mistakes(words, said, tmp_path, capsys):
  assert cli.main(['evaluate', *(word.replace('OUT', str(tmp_path)) for word in words)]) == 1
  assert capsys.readouterr().err.startswith(f'jaxgen: {said}')
