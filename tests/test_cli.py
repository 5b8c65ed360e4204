"""The command line as a user meets it: start-up, messages and exit codes."""

import argparse
import os
import pathlib
import subprocess
import sys

import pytest

from jaxgen import cli
from jaxgen.core import quiet
from jaxgen.sampling import commands

ROOT = pathlib.Path(__file__).parents[1]


def jaxgen(*words: str) -> subprocess.CompletedProcess:
  return subprocess.run([sys.executable, '-m', 'jaxgen.cli', *words], cwd=ROOT, text=True,
                        capture_output=True, check=False)


def modules_after(code: str) -> set[str]:
  """Top-level modules that a fresh process holds after running the code."""
  script = f'{code}\nimport sys\nprint(*sys.modules)'
  result = subprocess.run([sys.executable, '-c', script], cwd=ROOT, text=True, check=True,
                          capture_output=True)
  return {name.partition('.')[0] for name in result.stdout.split()}


def test_help_names_the_commands():
  result = jaxgen('--help')
  assert result.returncode == 0
  for command in ('train', 'finetune', 'sample', 'serve', 'evaluate', 'convert', 'push', 'data',
                  'curate', 'report', 'doctor', 'hello'):
    assert command in result.stdout


def test_help_loads_no_library():
  loaded = modules_after('import jaxgen.cli')
  assert not loaded & {'jax', 'numpy', 'tensorflow', 'torch', 'transformers'}


@pytest.mark.parametrize('code', [
    'import jaxgen.conversion.commands, jaxgen.sampling.load',
    'import jaxgen.evaluation.report, jaxgen.evaluation.evaluate',
    'import numpy as np\nfrom jaxgen.data.vision import NativeVision\nvision = NativeVision(14, 2)\n'
    'image = np.zeros((60, 91, 3), np.uint8)\n'
    'vision.patches(vision.resize(image, vision.fit((60, 91))))'])
def test_tensorflow_and_torch_stay_out(code):
  assert not modules_after(code) & {'tensorflow', 'torch'}


@pytest.mark.parametrize('words, message', [
    (['train', '--config=configs/none.py', '--workdir=w'],
     "jaxgen: --config = 'configs/none.py': no such file; see configs/ for those that ship\n"),
    (['train', '--config=configs/none.py', '--workdir=w', '--profile=5'],
     "jaxgen: --profile = '5': write FROM:TO, the first and the last step, as 10:12\n"),
    (['train', '--config=configs/none.py', '--workdir=w', '--profile=5:4'],
     "jaxgen: --profile = '5:4': write FROM:TO, the first and the last step, as 10:12\n"),
    (['sample', '--workdir=none', '--out=o'],
     'jaxgen: --prompt: give at least one --prompt, or a --prompts-file; or else a --job\n'),
    (['sample', '--workdir=none', '--out=o', '--prompt=a cat', '--job=j.json'],
     'jaxgen: --prompt: give at least one --prompt, or a --prompts-file; or else a --job\n'),
    (['sample', '--workdir=none', '--out=o', '--prompt=a cat', '--outputs=0'],
     'jaxgen: --outputs = 0: use 1 to 1024\n'),
    (['sample', '--workdir=none', '--out=o', '--prompt=a cat', '--size=5x'],
     "jaxgen: --size = '5x': write one number, or HEIGHTxWIDTH, as 512x768\n"),
    (['sample', '--workdir=none', '--out=o', '--prompt=a cat', '--source=none.png'],
     "jaxgen: --source = 'none.png': no such file\n"),
    (['sample', '--workdir=none', '--out=o', '--prompts-file=none.txt'],
     "jaxgen: --prompts-file = 'none.txt': no such file\n"),
    (['sample', '--workdir=none', '--out=o', '--prompt=a cat'],
     'jaxgen: none: no config.json there; give a workdir or a weights folder\n'),
    (['evaluate', '--workdir=none'],
     'jaxgen: none: no config.json there; give a workdir or a weights folder\n'),
    (['evaluate', '--workdir=none', '--prompts=0'],
     'jaxgen: --prompts = 0: use at least 1\n'),
    (['serve'],
     'jaxgen: --workdir: name either a trained run, or a published pipeline by --base\n'),
    (['serve', '--workdir=none', '--api-key-file=none'],
     "jaxgen: --api-key-file = 'none': no such file\n"),
    (['serve', '--workdir=none', '--output-size=512'],
     "jaxgen: --output-size = '512': write WIDTHxHEIGHT, as 768x512\n"),
    (['curate', 'none.py', '--out=o', '--gpus-per-worker=1'],
     'jaxgen: --gpus-per-worker = 1: local has all GPUs of this machine; add --engine=ray to share '
     'them out\n'),
    (['report', '--workdir=none'],
     "jaxgen: --workdir = 'none': holds no metrics.jsonl, nor do its subfolders; "
     'give the folder of a run, or of several\n'),
])
def test_mistakes_end_in_one_line(capsys, words, message):
  assert cli.main(words) == 1
  assert capsys.readouterr() == ('', message)


@pytest.mark.parametrize('command, flag, message', [
    ('sample', '--guidance=-3', 'use 0 to 100'), ('sample', '--guidance=1e30', 'use 0 to 100'),
    ('sample', '--guidance=nan', 'use 0 to 100'), ('sample', '--image-guidance=-1', 'use 0 to 100'),
    ('sample', '--seed=4294967296', 'use 0 to 4294967295'), ('sample', '--steps=-1', 'use 0 to'),
    ('sample', '--seed=-1', 'use 0 to 4294967295'), ('sample', '--workdir=', 'name a file or fold'),
    ('sample', '--out=', 'name a file or folder'), ('train', '--workdir=', 'name a file or folder'),
    ('train', '--config=', 'name a file or folder'), ('train', '--num-processes=-1', 'at least 0'),
    ('evaluate', '--fit=-1', 'at least 0'), ('evaluate', '--seed=18446744073709551615', 'use 0 to'),
    ('evaluate', '--images-per-prompt=0', 'at least 1'), ('plan', '--search=-2', 'at least 0'),
    ('data inspect', '--limit=-1', 'at least 0'), ('data inspect', '--size=-1', 'use 0 to 32768'),
    ('data pack', '--shards=0', 'at least 1'), ('data pack', '--seed=-1', 'use 0 to'),
    ('data tokenizer', '--vocab=-1', 'at least 1'), ('data show', '--rows=0', 'at least 1'),
    ('serve', '--port=70000', 'use 0 to 65535'), ('serve', '--timeout=nan', 'at least 0.001'),
    ('data cache', '--every=0', 'at least 1'), ('data cache --states', '--every=0', 'at least 1'),
    ('data cache --image-tokens', '--every=-1', 'at least 1'),
    ('report', '--workdir=', 'name a file or folder')])
def test_numbers_out_of_range_and_empty_paths(capsys, command, flag, message):
  needed = {'sample': ('workdir', 'out'), 'train': ('config', 'workdir'), 'evaluate': ('workdir',),
            'plan': ('config', 'topology'), 'data pack': ('out',), 'data tokenizer': ('out',),
            'data show': ('config',), 'data cache': ('config', 'out')}.get(
                command.partition(' --')[0], ())
  assert cli.main([*command.split(), *(f'--{name}=none' for name in needed), flag]) == 1
  out, err = capsys.readouterr()
  name, _, value = flag.partition('=')
  assert out == '' and err.count('\n') == 1
  assert err.startswith(f'jaxgen: {name} = ') and message in err
  assert value or not os.path.exists('config.json')


def numbers_of(parser):
  """Names of all flags that take a number, of all commands."""
  for action in parser._actions:
    if isinstance(action, argparse._SubParsersAction):
      for command in action.choices.values():
        yield from numbers_of(command)
    elif action.type in (int, float):
      yield action.dest


def test_every_number_has_bounds():
  """Two have them where a job file or a config may give them too."""
  assert set(numbers_of(cli.make_parser())) - set(cli.RANGES) == {'top_p', 'of_run'}


def test_a_prompt_goes_on_to_the_end_of_its_line(capsys, tmp_path):
  file = tmp_path / 'prompts.txt'
  file.write_text('a cat,\u2028asleep\r\n\n  a dog\x85 \n', 'utf-8-sig', newline='')
  assert commands._lines(str(file)) == ['a cat,\u2028asleep', 'a dog']
  file.write_bytes('Füße'.encode('latin-1'))
  assert cli.main(['sample', '--workdir=w', '--out=o', f'--prompts-file={file}']) == 1
  assert capsys.readouterr().err == (f"jaxgen: --prompts-file = '{file}': is not UTF-8, byte 1 is "
                                     '0xfc; save it as UTF-8\n')


@pytest.mark.parametrize('words', [
    ['data', 'tokenizer', '--kind=shapes', '--out=FILE'],
    ['data', 'pack', '--kind=shapes', '--limit=2', '--size=16', '--out=FILE/x'],
    ['sample', '--workdir=none', '--prompt=a cat', '--out=FILE/x'],
    ['convert', 'export', '--workdir=none', '--out=FILE'],
    ['convert', 'import', '--path=none', '--out=FILE/x'],
])
def test_places_that_cannot_be_written_are_named_before_anything_is_read(capsys, tmp_path, words):
  file = tmp_path / 'file'
  file.write_text('')
  assert cli.main([word.replace('FILE', str(file)) for word in words]) == 1
  out, err = capsys.readouterr()
  assert out == '' and err.startswith(f'jaxgen: {file}') and err.count('\n') == 1
  assert 'could not be written (a file is in the place of a folder)' in err
  assert os.listdir(tmp_path) == ['file'] and file.read_text() == ''


def test_broken_override_ends_in_one_line(capsys, tmp_path):
  file = tmp_path / 'config.py'
  file.write_text('from jaxgen.config import base_config as get_config\n')
  code = cli.main(['train', f'--config={file}', f'--workdir={tmp_path / "run"}',
                   '--config.train.stpes=5'])
  out, err = capsys.readouterr()
  assert code == 1 and out == ''
  assert err.startswith("jaxgen: config.train.stpes = '5': no such field; known: ['accumulate'")
  assert not os.path.exists(tmp_path / 'run')


@pytest.mark.parametrize('words', [
    [], ['paint'], ['train', '--config=f.py'], ['train', '--config=f.py', '--workdir=w', 'more'],
    ['report', '--workdir=w', '--config.seed=1'], ['sample', '--workdir=w', '--out=o', '--see=1'],
])
def test_wrong_usage_exits_with_2(capsys, words):
  with pytest.raises(SystemExit) as error:
    cli.main(words)
  assert error.value.code == 2
  assert 'usage: jaxgen' in capsys.readouterr().err


def test_defects_keep_their_traceback(monkeypatch, tmp_path):
  monkeypatch.setattr('jaxgen.evaluation.report.write_report', lambda workdir: {}['defect'])
  with pytest.raises(KeyError, match='defect'):
    cli.main(['report', f'--workdir={tmp_path}'])


def test_libraries_are_quiet_about_hardware_that_is_not_there():
  """Where libtpu is installed and no chip is, jax does not look for one."""
  quiet = {'PATH': os.environ['PATH'], 'HOME': os.environ['HOME'], 'PYTHONPATH': str(ROOT)}
  code = ('import os; from jaxgen.core import quiet; quiet.settle(os.environ); import jax; '
          'print(jax.default_backend(), os.environ["TF_CPP_MIN_LOG_LEVEL"])')
  result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, check=True, env=quiet,
                          capture_output=True)
  assert result.stderr == '' and result.stdout in ('cpu 3\n', 'gpu 3\n', 'tpu 3\n')


@pytest.mark.parametrize('name', ['TPU_WORKER_HOSTNAMES', 'TPU_NAME'])
def test_jax_looks_for_tpus_where_anything_speaks_for_them(name):
  environ = {name: 'x'}
  quiet.settle(environ)
  assert 'JAX_PLATFORMS' not in environ
  environ = {'JAX_PLATFORMS': 'tpu', 'TF_CPP_MIN_LOG_LEVEL': '0'}
  before = dict(environ)
  quiet.settle(environ)
  assert environ.items() >= before.items()
