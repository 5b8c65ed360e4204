"""A run keeps its tokenizers and compares what they do, not where they lie."""

import copy
import json
import shutil

import pytest
from etils import epath

from jaxgen.config import base_config
from jaxgen.core.errors import UserError
from jaxgen.data.kept_tokenizers import keep
from jaxgen.data.kept_tokenizers import with_kept
from jaxgen.data.tokenizer import load_tokenizer
from jaxgen.data.tokenizer import train_tokenizer


@pytest.fixture
def config(tokenizer_folder, tmp_path):
  shutil.copytree(tokenizer_folder, tmp_path / 'mine')
  shutil.copytree(tokenizer_folder, tmp_path / 'tower')
  config = base_config()
  config.data.tokenizer = str(tmp_path / 'mine')
  config.data.tower_tokenizers.clip = str(tmp_path / 'tower')
  return config


def test_kept_tokenizers_are_used_when_the_folder_is_gone(config, tmp_path):
  workdir = epath.Path(tmp_path / 'run')
  assert with_kept(config, workdir) == config
  keep(config, None, workdir)
  ids = load_tokenizer(config.data.tokenizer).encode('a photo of a red circle')
  shutil.rmtree(tmp_path / 'mine')
  keep(config, config, workdir)
  kept = with_kept(config, workdir).data
  assert kept.tokenizer == str(workdir / 'tokenizer')
  assert kept.tower_tokenizers.clip == str(workdir / 'tokenizer_clip')
  assert load_tokenizer(kept.tokenizer).encode('a photo of a red circle') == ids
  assert config.data.tokenizer == str(tmp_path / 'mine')  # which is what config.json says


def test_contents_are_compared(config, tmp_path):
  workdir = epath.Path(tmp_path / 'run')
  keep(config, None, workdir)
  moved = copy.deepcopy(config)
  moved.data.tokenizer = str((tmp_path / 'mine').rename(tmp_path / 'moved'))
  file = tmp_path / 'moved' / 'tokenizer.json'
  file.write_text(json.dumps(json.loads(file.read_text()), indent=1))  # in another layout
  keep(moved, config, workdir)
  file = tmp_path / 'moved' / 'tokenizer_config.json'
  file.write_text(file.read_text().replace('<pad>', '<unk>'))
  with pytest.raises(UserError, match='^config.data.tokenizer = .*moved.*gives other tokens'):
    keep(moved, config, workdir)
  train_tokenizer(['other words'], 300, config.data.tower_tokenizers.clip)
  config.data.tokenizer = str(workdir / 'tokenizer')
  with pytest.raises(UserError, match='^config.data.tower_tokenizers.clip = .*gives other tokens'):
    keep(config, config, workdir)


def test_another_path_that_holds_nothing_is_an_error(config, tmp_path):
  workdir = epath.Path(tmp_path / 'run')
  keep(config, None, workdir)
  other = copy.deepcopy(config)
  other.data.tokenizer = str(tmp_path / 'none')
  with pytest.raises(UserError, match='^config.data.tokenizer = .*none.*no such folder'):
    keep(other, config, workdir)
