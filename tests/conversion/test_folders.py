"""Model folders are streamed, sharded and written atomically; damaged ones are named."""

import json
import pathlib
import resource

import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import torch

from jaxgen.conversion.folders import load_folder
from jaxgen.conversion.folders import save_folder
from jaxgen.conversion.folders import write_file
from jaxgen.conversion.stored import StoredTensor
from jaxgen.core.errors import UserError


def tensors():
  rng = np.random.default_rng(0)
  return {f'w{i}': rng.normal(size=(8, i + 2)).astype(np.float32).T for i in range(4)} | {
      'half': rng.normal(size=5).astype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize('shard_bytes, files', [(10**9, 1), (250, 3)])
def test_round_trip_of_views_and_bf16(tmp_path, shard_bytes, files):
  folder = tmp_path / 'deep' / 'model'
  save_folder(str(folder), {'model_type': 'x'}, tensors(), stem='model', shard_bytes=shard_bytes)
  assert len(list(folder.glob('*.safetensors'))) == files
  assert (folder / 'model.safetensors.index.json').exists() == (files > 1)
  assert [path.name for path in folder.parent.iterdir()] == ['model']
  config, loaded = load_folder(str(folder))
  assert config == {'model_type': 'x'}
  assert loaded.keys() == tensors().keys()
  for name, array in tensors().items():
    stored = loaded[name]
    assert isinstance(stored, StoredTensor) and stored.shape == array.shape
    assert np.asarray(stored).dtype == array.dtype
    assert np.asarray(stored).tobytes() == array.tobytes()


def test_the_library_reads_what_is_written(tmp_path):
  """safetensors' reader for PyTorch needs every tensor aligned to its item size."""
  mixed = tensors() | {'a': np.ones(3, np.int8), 'big': np.arange(6.0), 'one': np.float32(2)}
  write_file(str(tmp_path / 'x.safetensors'), mixed)
  found = safetensors.torch.load_file(tmp_path / 'x.safetensors')
  assert found.keys() == mixed.keys()
  for name, array in mixed.items():
    bits = found[name].contiguous().view(-1).view(torch.uint8) if array.ndim else None
    assert tuple(found[name].shape) == array.shape
    assert bits is None or bits.numpy().tobytes() == array.tobytes(), name
  assert found['one'] == 2
  with safetensors.safe_open(tmp_path / 'x.safetensors', 'pt') as file:
    assert file.metadata() == {'format': 'pt'}


def saved(tmp_path, shard_bytes=10**9) -> pathlib.Path:
  folder = tmp_path / 'model'
  save_folder(str(folder), {'model_type': 'x'}, tensors(), stem='model', shard_bytes=shard_bytes)
  return folder


def refused(folder, *texts):
  with pytest.raises(UserError) as caught:
    load_folder(str(folder))
  message = str(caught.value)
  assert '\n' not in message
  for text in texts:
    assert text in message
  return message


def test_a_truncated_file_is_named(tmp_path):
  file = saved(tmp_path) / 'model.safetensors'
  file.write_bytes(file.read_bytes()[:-3])
  refused(file.parent, str(file), 'damaged or cut short', 'copy the file again')


def test_an_empty_file_is_named(tmp_path):
  file = saved(tmp_path) / 'model.safetensors'
  file.write_bytes(b'')
  refused(file.parent, str(file), 'damaged or cut short')


def test_missing_parts_are_named(tmp_path):
  refused(tmp_path / 'nowhere', 'no such folder')
  folder = saved(tmp_path, shard_bytes=250)
  (folder / 'model-00002-of-00003.safetensors').unlink()
  refused(folder, 'index.json', "['model-00002-of-00003.safetensors']", 'missing')
  (folder / 'config.json').unlink()
  refused(folder, 'config.json', 'no such file')


def test_broken_json_is_named(tmp_path):
  folder = saved(tmp_path)
  (folder / 'config.json').write_text('{"model_type": ')
  refused(folder, 'config.json', 'damaged')
  (folder / 'config.json').write_text(json.dumps(['x']))
  refused(folder, 'config.json', 'no JSON object')


def test_a_folder_in_use_is_not_overwritten(tmp_path):
  folder = saved(tmp_path)
  with pytest.raises(UserError, match='not empty'):
    save_folder(str(folder), {}, {}, stem='model')
  assert (folder / 'model.safetensors').exists()


def test_a_full_disk_leaves_nothing_behind(tmp_path):
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
  try:
    with pytest.raises(UserError, match='could not be written') as caught:
      save_folder(str(tmp_path / 'big'), {}, {'w': np.ones(10_000)}, stem='model')
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert '\n' not in str(caught.value)
  assert not list(tmp_path.iterdir())
