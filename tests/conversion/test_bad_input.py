"""Bad input to the converter: one clear line each, and no half-written output."""

import json
import pathlib
import pickle
import subprocess
import sys

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
import torch

from jaxgen.conversion import load_pretrained
from jaxgen.conversion import save_pretrained
from jaxgen.conversion.commands import import_
from jaxgen.conversion.inspection import inspect
from jaxgen.conversion.pretrained import read_external
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from tests.conversion.tiny import TINY

MODULE = registry.build(registry.section('residual_queries', width=16, queries=3, heads=2),
                        jnp.float32)


def params_of(module):
  rng = np.random.default_rng(0)
  return trees.map_named(lambda _, leaf: rng.random(leaf.shape, np.float32),
                         registry.param_shapes(module))


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  save_pretrained(MODULE, params_of(MODULE), str(tmp_path / 'model'))
  return tmp_path / 'model'


def refused(path, *texts, opened=False) -> str:
  """The one-line error that all readers raise; none leaves output behind.

  What is only wrong between a model and its ``opened`` files, ``inspect`` lists instead.
  """
  local = pathlib.Path(path).is_absolute()
  out = pathlib.Path(f'{path}-out' if local else 'never')
  messages = []
  for read in (load_pretrained, lambda path: import_(path, str(out)), read_external,
               *(() if opened else (inspect,))):
    with pytest.raises(UserError) as caught:
      read(str(path))
    messages.append(str(caught.value))
  assert len(set(messages)) == 1 and '\n' not in messages[0] and not out.exists()
  for text in texts:
    assert text in messages[0]
  return messages[0]


def edit(folder, change):
  """Rewrites the tensors of a folder."""
  file = folder / 'model.safetensors'
  tensors = safetensors.numpy.load_file(file)
  change(tensors)
  safetensors.numpy.save_file(tensors, file)


def test_a_truncated_file(folder):
  file = folder / 'model.safetensors'
  whole = file.read_bytes()
  for length in (len(whole) - 1, 100, 4, 0):
    file.write_bytes(whole[:length])
    refused(folder, str(file), 'damaged or cut short', 'copy the file again')


def test_a_header_that_lies(folder):
  file = folder / 'model.safetensors'
  raw = file.read_bytes()
  for change in (lambda entry: entry.update(dtype='F99'), lambda entry: entry.pop('shape'),
                 lambda entry: entry.update(shape=[1, 1])):
    header = json.loads(raw[8:8 + int.from_bytes(raw[:8], 'little')])
    change(header['queries'])
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, 'little') + text
                     + raw[8 + int.from_bytes(raw[:8], 'little'):])
    refused(folder, 'damaged or cut short')


@pytest.mark.parametrize('places, text', [
    ({'queries': 'model-00001-of-00001.safetensors'}, 'these files are missing'),
    ({'queries': 'model.safetensors', 'more': 'model.safetensors'},
     'names 1 tensors that its files lack: more'),
    ([1], 'has no weight_map'), ({}, 'has no weight_map'),
])
def test_a_wrong_index(folder, places, text):
  (folder / 'model.safetensors.index.json').write_text(json.dumps({'weight_map': places}))
  refused(folder, 'model.safetensors.index.json', text)


def test_tensors_that_do_not_fit(folder):
  def change(tensors):
    tensors['queries'] = tensors['queries'].T.copy()
    tensors['stray'] = tensors.pop('mlp.up.bias')
  edit(folder, change)
  refused(folder, '1 missing: mlp.up.bias', '1 unknown: stray',
          '1 misshapen: queries (16, 3) (needs (3, 16))', opened=True)
  found = inspect(str(folder))
  assert (found['missing'], found['unknown']) == (['mlp.up.bias'], ['stray'])


def test_a_config_of_another_family(folder):
  (folder / 'config.json').write_text(json.dumps(
      {'_class_name': 'MLPConnector', 'width': 4, 'hidden': 6, 'out_width': 5}))
  refused(folder, 'missing: 0.bias', 'unknown: attention.k.bias', opened=True)
  (folder / 'config.json').write_text(json.dumps({'_class_name': 'UNet2DConditionModel'}))
  refused(folder, "'UNet2DConditionModel': not a model that jaxgen can read")
  (folder / 'config.json').unlink()
  refused(folder, 'of no model that jaxgen knows by their names')


@pytest.mark.parametrize('dtype', [np.float32, ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn,
                                   ml_dtypes.float8_e5m2])
def test_numbers_that_are_not_finite_are_named(folder, dtype):
  def change(tensors):
    for name in ('mlp.up.bias', 'queries'):
      tensors[name] = np.nan_to_num(np.asarray(tensors[name]).astype(dtype))
    tensors['queries'][1, 2] = np.nan
    tensors['mlp.up.bias'][0] = -np.inf  # NaN in a format without infinity
  edit(folder, change)
  with pytest.warns(UserWarning, match='2 tensors hold NaN or infinite numbers: mlp.up.bias, '
                                       'queries'):
    _, params = load_pretrained(str(folder))
  assert np.isnan(params['queries'][1, 2])
  stored = read_external(str(folder))['queries']
  for read in (np.asarray, lambda leaf: leaf.onto(jax.sharding.SingleDeviceSharding(
      jax.devices()[0]), np.float32)):
    with pytest.warns(UserWarning, match='1 tensors hold NaN or infinite numbers: queries'):
      np.testing.assert_array_equal(read(stored).astype(np.float32),
                                    params['queries'].astype(np.float32))


class Bomb:
  """Without ``weights_only`` its unpickling would write a file."""

  def __init__(self, file):
    self.file = file

  def __reduce__(self):
    return pathlib.Path.touch, (pathlib.Path(self.file),)


def test_a_pickle_with_code_is_refused_and_not_run(folder, tmp_path):
  (folder / 'model.safetensors').unlink()
  file, harm = folder / 'pytorch_model.pt', tmp_path / 'harm'
  torch.save({'queries': torch.zeros(3), 'args': Bomb(str(harm))}, file)
  refused(folder, str(file), 'refused: a pickle that holds more than tensors')
  file.write_bytes(pickle.dumps(Bomb(str(harm))))
  refused(folder, 'pytorch_model.pt')
  assert not harm.exists()


def test_other_pytorch_files(folder):
  (folder / 'model.safetensors').unlink()
  file = folder / 'weights.pth'
  torch.save({'step': 3, 'more': [torch.zeros(1)]}, file)
  refused(folder, 'holds no dictionary of tensors')
  torch.save({'queries': torch.zeros(3)}, file)
  file.write_bytes(file.read_bytes()[:-40])
  refused(folder, str(file), 'damaged or cut short')


def test_pytorch_files_without_pytorch(tmp_path):
  code = ('import sys; sys.modules["torch"] = None\n'
          'from jaxgen.conversion.torch_files import open_torch\n'
          'open_torch("x.pt")')
  result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True,
                          check=False)
  assert 'x.pt: reading this file needs PyTorch; install torch' in result.stderr


def test_hub_ids_while_offline():
  refused('no-one/no-model', 'no-one/no-model: no such folder here', 'HF_HUB_OFFLINE')
  refused('no-one/no-model/folder@main', 'HF_HUB_OFFLINE')


@pytest.mark.parametrize('path', ['weights/flux_vae', 'runs/pretrain', './a/b', 'tests/models'])
def test_what_looks_like_a_path_is_never_asked_for_on_the_hub(path, monkeypatch):
  monkeypatch.setitem(sys.modules, 'huggingface_hub', None)  # importing it would fail
  refused(f'{path}_none' if path.startswith('tests') else path, 'no such folder or file')


def test_places_that_are_none(tmp_path):
  refused(tmp_path / 'nowhere', 'no such folder or file')
  refused('a/b/../../c d', 'no such folder or file')
  folder = tmp_path / 'pipeline'
  save_pretrained(MODULE, params_of(MODULE), str(folder / 'transformer'))
  with pytest.raises(UserError, match='holds several models .transformer.; give the path of one'):
    load_pretrained(str(folder))


def test_what_cannot_be_written(tmp_path):
  params, path = params_of(MODULE), str(tmp_path / 'out')
  with pytest.raises(UserError, match="layout = 'original': ResidualQueries knows"):
    save_pretrained(MODULE, params, path, layout='original')
  cosmos = registry.build(registry.section('cosmos', **TINY['cosmos']), jnp.float32)
  with pytest.raises(UserError, match='qk_epsilon = 1e-05: CosmosTransformer3DModel knows 1e-06'):
    save_pretrained(cosmos, {}, path, layout='original')
  params['queries'] = params['queries'].T
  with pytest.raises(UserError, match=r'do not fit the module; 1 misshapen: queries \(16, 3\)'):
    save_pretrained(MODULE, params, path)
  pixel = registry.build(registry.section('pixel'), jnp.float32)
  with pytest.raises(UserError, match='no table of names knows this module'):
    save_pretrained(pixel, {}, path)
  assert not list(tmp_path.iterdir())
