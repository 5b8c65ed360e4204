"""Uploads of a trained run and of its export, to a hub that speaks HTTP on this machine."""

import json

import numpy as np
import pytest
import yaml
from huggingface_hub import constants

from jaxgen import cli
from jaxgen.checkpoints.weights import load_weights
from jaxgen.core import trees
from jaxgen.sampling.load import run_config
from tests.operations import local_hub


@pytest.fixture
def hub():
  """A hub that the token of the environment belongs to."""
  with local_hub.logged_in() as hub:
    yield hub


def read_card(files):
  """The header of a model card, and its text."""
  _, head, text = files['README.md'].decode().split('---\n', 2)
  return yaml.safe_load(head), text


def test_a_run_is_uploaded_as_what_draws_the_same(straight, hub, tmp_path, capsys):
  (straight / 'evaluation.json').write_text(json.dumps(
      {'score': {'colors': 0.25, 'overall': 0.5}, 'prompts': 4, 'images_per_prompt': 1, 'seed': 0,
       'weights': 'ema'}))
  try:
    assert cli.main(['push', f'--workdir={straight}', '--push-to=owner/run',
                     '--license=apache-2.0']) == 0
  finally:
    (straight / 'evaluation.json').unlink()
  assert capsys.readouterr().out.strip().endswith('/owner/run')
  assert hub.messages == ['jaxgen push, step 20'] and hub.objects
  files = hub.repositories['owner/run']
  assert {'config.json', 'README.md', 'evaluation.json', 'tokenizer/tokenizer.json'} <= set(files)
  assert not any(name.startswith(('checkpoints/20/train', 'checkpoints/10')) for name in files)
  for name, data in files.items():
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(data)
  assert run_config(str(tmp_path)) == run_config(str(straight))
  ours, theirs = (trees.flatten(load_weights(str(folder), ('denoiser', 'mllm'))[0])
                  for folder in (straight, tmp_path))
  assert ours.keys() == theirs.keys() and ours
  assert all(np.array_equal(leaf, theirs[path]) for path, leaf in ours.items())
  head, text = read_card(files)
  assert head == {'license': 'apache-2.0', 'library_name': 'jaxgen', 'tags': ['jaxgen', 'iomm']}
  for words in ('20 of 20 steps', 'drawn by jaxgen, Apache-2.0', '| evaluation | colors | 0.250 |',
                'these weights: apache-2.0', '--local-dir=run', '| began with | random weights |'):
    assert words in text


def test_an_export_is_uploaded_with_what_it_holds(straight, hub, tmp_path, capsys):
  words = ['convert', 'export', f'--workdir={straight}', f'--out={tmp_path / "out"}']
  assert cli.main([*words, '--push-to=stranger/export']) == 1
  assert 'the hub refuses it (' in capsys.readouterr().err and not (tmp_path / 'out').exists()
  assert cli.main([*words, '--push-to=owner/export']) == 0
  files = hub.repositories['owner/export']
  for file in (tmp_path / 'out').rglob('*'):
    assert file.is_dir() or files[str(file.relative_to(tmp_path / 'out'))] == file.read_bytes()
  head, text = read_card(files)
  assert 'license' not in head and 'has stated no licence' in text
  assert '| `denoiser` | `FluxTransformer2DModel` |' in text and 'None: it was not eval' in text
  assert json.loads(files['jaxgen.json'])['system'] == 'iomm'
  assert '`jaxgen.json` is the whole configuration.' in text


@pytest.mark.parametrize('name, value, said', [
    ('HF_TOKEN', 'hf_old', 'the hub refuses it (Invalid user token.'),
    ('HF_ENDPOINT', 'http://127.0.0.1:9', 'the hub refuses it ([Errno 111] Connection refused)'),
    (None, True, 'HF_HUB_OFFLINE is set; unset it, or upload ')])
def test_a_hub_that_refuses_or_is_not_there_is_named(straight, hub, monkeypatch, capsys, name,
                                                     value, said):
  if name:
    monkeypatch.setenv(name, value)
  else:
    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', value)
  assert cli.main(['push', f'--workdir={straight}', '--push-to=owner/run']) == 1
  err = capsys.readouterr().err
  assert said in err and err.count('\n') == 1 and not hub.repositories


def test_licences_are_of_cards_and_buckets_are_refused(tmp_path, capsys):
  assert cli.main(['convert', 'export', '--workdir=w', f'--out={tmp_path}/o', '--license=mit']) == 1
  assert '--license = ' in capsys.readouterr().err
