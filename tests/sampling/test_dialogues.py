"""Dialogues from the command line: the folder of an answer, going on after a kill, and mistakes."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from configs.imontage import shapes as imontage
from jaxgen import cli
from jaxgen.config import to_json
from jaxgen.data.sources import open_source
from tests.evaluation.test_report import Checker
from tests.sampling.scripted import save_run

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = ('--images=2', '--max-tokens=6', '--seed=3')


@pytest.fixture(scope='module')
def folder(tmp_path_factory, tiny_tokenizer):
  """A run with random weights, and a dialogue with an image."""
  root = tmp_path_factory.mktemp('dialogues')
  save_run(root, tiny_tokenizer)
  write(root / 'asked.json', [{'role': 'source', 'image': 'mine.jpg'},
                              {'role': 'user', 'text': 'make it <b>blue</b>'}])
  return root


def write(file, parts, **fields):
  file.write_text(json.dumps(dict(parts=parts, **fields)))


def words(folder, out: str, *flags: str, asked: str = 'asked.json') -> list[str]:
  return ['sample', f'--workdir={folder / "run"}', f'--dialogue={folder / asked}',
          f'--out={folder / out}', *(flags or FLAGS)]


def files(folder) -> dict[str, bytes]:
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope='module')
def answered(folder):
  """The folder of an answer that nothing interrupted."""
  assert cli.main(words(folder, 'answer')) == 0
  return folder / 'answer'


def test_the_folder_of_an_answer(answered, folder):
  record = json.loads((answered / 'dialogue.json').read_text())
  kinds = [part['role'] for part in record['parts']]
  assert kinds[:2] == ['source', 'user'] and kinds.count('target') == 2
  assert record['answer']['given'] == 2 and record['answer']['ended'] == 'cut'
  images = [part['image'] for part in record['parts'] if 'image' in part]
  assert set(files(answered)) == {*images, 'dialogue.json', 'dialogue.html'}
  assert images[0] == '00_source.jpg'
  assert (answered / images[0]).read_bytes() == (folder / 'mine.jpg').read_bytes()
  assert all(Image.open(answered / name).size == (16, 16) for name in images[1:])
  page = (answered / 'dialogue.html').read_text()
  assert 'make it &lt;b&gt;blue&lt;/b&gt;' in page
  checker = Checker()
  checker.feed(page)
  assert not checker.open and len(checker.images) == 3
  assert all(link.startswith('data:image/png;base64,') for link in checker.links)


def test_an_answer_is_a_sample_that_can_be_trained_on_and_gone_on_with(answered, folder, capsys):
  record = json.loads((answered / 'dialogue.json').read_text())
  (answered / 'samples.jsonl').write_text(json.dumps(record))
  sample = open_source('jsonl', str(answered / 'samples.jsonl'))[0]
  (answered / 'samples.jsonl').unlink()
  assert [part.loss for part in sample.parts] == [part.role in ('assistant', 'target')
                                                  for part in sample.parts]
  further = [{**part, 'image': f'answer/{part["image"]}'} if 'image' in part else part
             for part in record['parts']]
  write(folder / 'further.json', [*further, {'role': 'user', 'text': 'and now red'}])
  assert cli.main(words(folder, 'further', '--max-images=0', '--max-tokens=6',
                        asked='further.json')) == 0
  text, ended, page = capsys.readouterr().out.splitlines()
  assert text.startswith('assistant: ') and page == f'{folder}/further/dialogue.html'
  after = json.loads((folder / 'further/dialogue.json').read_text())
  assert after['parts'][-1]['text'] == text.removeprefix('assistant: ')
  assert after['answer']['given'] == len(after['parts']) - 1 == len(further) + 1 and ended


def test_a_killed_call_is_gone_on_with_to_the_same_bytes(answered, folder, capsys):
  child = subprocess.Popen([sys.executable, '-m', 'jaxgen.cli', *words(folder, 'killed')], cwd=ROOT,
                           stdout=subprocess.DEVNULL)
  record = folder / 'killed' / 'dialogue.json'
  while child.poll() is None and not (record.exists() and b'_target' in record.read_bytes()):
    time.sleep(0.005)
  os.kill(child.pid, signal.SIGKILL)
  assert child.wait() == -signal.SIGKILL
  assert json.loads(record.read_text())['answer']['ended'] == ''
  assert cli.main(words(folder, 'killed')) == 0
  told = capsys.readouterr().out
  assert files(folder / 'killed') == files(answered)
  # A call that has nothing left to do says the same.
  assert cli.main(words(folder, 'killed')) == 0
  assert capsys.readouterr().out == told


def refused(capsys, *words: str) -> str:
  """The line that a call ends with."""
  assert cli.main([*words]) == 1
  out, err = capsys.readouterr()
  assert out == '' and err.count('\n') == 1
  return err


@pytest.mark.parametrize('flags, said', [
    (['--seed=4', *FLAGS[:2]], 'holds an answer with seed = 3, not 4; remove'),
    (['--temperature=1', *FLAGS], 'holds an answer with temperature = 0.0, not 1.0'),
])
def test_a_folder_with_another_answer_is_left_alone(capsys, answered, folder, flags, said):
  before = files(answered)
  assert said in refused(capsys, *words(folder, 'answer', *flags))
  write(folder / 'other.json', [{'role': 'user', 'text': 'something else'}])
  assert 'holds the answer to another dialogue' in refused(
      capsys, *words(folder, 'answer', asked='other.json'))
  assert files(answered) == before


def test_damage_is_named(capsys, answered, folder, tmp_path):
  (tmp_path / 'run').symlink_to(folder / 'run')
  (tmp_path / 'asked.json').symlink_to(folder / 'asked.json')
  for name, content, said in (
      ('dialogue.json', b'{"parts": [', 'damaged'), ('dialogue.json', b'{}', 'is not the record'),
      ('03_target.png', b'none', 'an image of it cannot be read'), ('03_target.png', None, 'read')):
    out = tmp_path / f'out{len(os.listdir(tmp_path))}'
    out.mkdir()
    for file, data in files(answered).items():
      (out / file).write_bytes(data)
    (out / name).write_bytes(content) if content else (out / name).unlink()
    line = refused(capsys, 'sample', f'--workdir={folder / "run"}', f'--out={out}',
                   f'--dialogue={folder / "asked.json"}', *FLAGS)
    assert said in line and 'remove the folder, or choose another --out' in line


@pytest.mark.parametrize('content, said', [
    ('{"parts": [', 'is not JSON'),
    ('[]', 'must be a JSON object with "parts"'), ('{"prompt": "a cat"}', 'with "parts"'),
    ('{"parts": []}', 'must be a list of one or more parts'),
    ([('user', 'text', 'a'), ('assistant', 'text', 'b')], "= 'assistant': there is nothing to ans"),
    ([('user', 'text', 'a'), ('target', 'image', 'mine.jpg')], "= 'target': there is nothing to"),
    ([('source', 'image', 'none.png'), ('user', 'text', 'a')], 'none.png\': no such file'),
    ([('source', 'image', None), ('user', 'text', 'a')], 'must be a string'),
    ([('robot', 'text', 'a')], "parts[0].role = 'robot': use one of system, user, assistant"),
    ([('user', 'text', 'word ' * 900)], 'more than config.data.prompt_tokens = 400'),
    ([('source', 'image', 'asked.json'), ('user', 'text', 'a')], 'an image cannot be read'),
])
def test_mistakes_in_a_dialogue_end_in_one_line(capsys, folder, content, said):
  file = folder / 'wrong.json'
  if isinstance(content, str):
    file.write_text(content)
  else:
    write(file, [{'role': role, kind: value} for role, kind, value in content])
  assert said in refused(capsys, *words(folder, 'out', asked='wrong.json'))
  assert not (folder / 'out').exists()


@pytest.mark.parametrize('flags, said', [
    (['--prompt=a cat'], 'says itself what is given and asked; drop --prompt\n'),
    (['--source=mine.jpg'], 'drop --source\n'), (['--job=j.json'], 'drop --job\n'),
    (['--outputs=2'], 'drop --outputs\n'), (['--task=edit'], 'drop --task\n'),
    (['--dialogue=', '--images=2'], '--images = 2: is of the answer to a dialogue'),
    (['--dialogue=', '--top-p=0.5'], '--top-p = 0.5: is of the answer to a dialogue'),
    (['--max-tokens=0'], 'max_tokens = 0: nothing is written, so say how many images'),
    (['--top-p=0'], 'top_p = 0.0: must be above 0'), (['--images=-1'], '--images = -1: use 0 to'),
    (['--size=10'], 'both sides must be multiples of 4'),
])
def test_flags_that_do_not_go_together_end_in_one_line(capsys, folder, flags, said):
  assert said in refused(capsys, *words(folder, 'out', *flags))


def test_an_answer_does_not_replace_its_dialogue(capsys, folder, tmp_path):
  write(tmp_path / 'dialogue.json', [{'role': 'user', 'text': 'a'}])
  assert 'the answer would replace the dialogue' in refused(
      capsys, 'sample', f'--workdir={folder / "run"}', f'--out={tmp_path}',
      f'--dialogue={tmp_path / "dialogue.json"}')


def test_a_system_without_words_is_refused(capsys, folder, tmp_path):
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run/config.json').write_text(to_json(imontage.tiny()))
  line = refused(capsys, 'sample', f'--workdir={tmp_path / "run"}', f'--out={tmp_path / "out"}',
                 f'--dialogue={folder / "asked.json"}')
  assert "config.system = 'imontage': writes no text" in line
