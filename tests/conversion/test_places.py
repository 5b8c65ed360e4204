"""Models in buckets, in the hub's cache, in single files and in PyTorch files."""

import dataclasses
import functools
import json
import os
import re
import subprocess
import sys

import fsspec
import huggingface_hub
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from huggingface_hub.utils import filter_repo_objects

from jaxgen.conversion import engine
from jaxgen.conversion import families
from jaxgen.conversion import load_pretrained
from jaxgen.conversion import save_pretrained
from jaxgen.conversion.external import open_external
from jaxgen.conversion.locate import locate
from jaxgen.conversion.locate import patterns
from jaxgen.conversion.tables import hunyuan_video_vae
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from tests.conversion.tiny import model_of

SECTION = registry.section('wan_vae', block_channels=(4, 8), temporal=(True,), mean=(0.0, 0.1),
                           std=(1.0, 2.0))


class Bucket(MemoryFileSystem):
  """A bucket in memory, registered under cloud schemes."""

  protocol = ('s3', 'gs', 'hf')

  @classmethod
  def _strip_protocol(cls, path):
    return super()._strip_protocol(re.sub('^(s3|gs|hf)://', '', path))


for scheme in ('s3', 'gs', 'gcs', 'hf'):
  fsspec.register_implementation(scheme, Bucket, clobber=True)


@functools.cache
def model():
  module = registry.build(SECTION, jnp.float32)
  rng = np.random.default_rng(0)
  return module, trees.map_named(lambda _, leaf: rng.random(leaf.shape, np.float32),
                                 registry.param_shapes(module))


def assert_loads(path, dtype=np.float32):
  module, params = load_pretrained(path)
  assert module == model()[0].clone(dtype=jnp.dtype(dtype))
  expected = trees.flatten(model()[1])
  for name, leaf in trees.flatten(params).items():
    assert leaf.dtype == dtype
    np.testing.assert_array_equal(leaf, expected[name].astype(dtype), err_msg=name)


@pytest.mark.parametrize('bucket', ['s3://models', 'gs://others', 'hf://owner/name'])
def test_a_bucket(bucket):
  """Written atomically, and read back without a local copy."""
  module, params = model()
  save_pretrained(module, params, f'{bucket}/vae')
  assert_loads(f'{bucket}/vae')
  assert_loads(f'{bucket}/vae/diffusion_pytorch_model.safetensors')
  found = open_external(f'{bucket}/vae')
  tensor = next(tensor for tensor in found.tensors.values() if tensor.shape[0] == 4)
  assert tensor[(slice(1, 2), *(slice(0, size) for size in tensor.shape[1:]))].shape[0] == 1
  assert found.bytes_read == np.prod(tensor.shape[1:]) * 4
  with pytest.raises(UserError, match=f'{bucket}/none: no such folder or file in that bucket'):
    load_pretrained(f'{bucket}/none')
  with pytest.raises(UserError, match='not empty'):
    save_pretrained(module, params, f'{bucket}/vae')


@pytest.mark.parametrize('nest', ['', 'module'])
@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16], ids=str)
def test_pytorch_files(tmp_path, nest, dtype):
  """Original names, at the top or nested as DeepSpeed saves them, next to a config.json."""
  module, params = model()
  rules = families.TABLES['wan_vae'].layout('original').rules
  state = {name: torch.tensor(array).to(dtype)
           for name, array in engine.to_torch(rules, params).items()}
  file = tmp_path / 'Wan2.1_VAE.pth'
  torch.save({nest: state} if nest else state, file)
  config = families.TABLES['wan_vae'].write_config(SECTION)
  (tmp_path / 'config.json').write_text(json.dumps(config))
  held = np.float32 if dtype == torch.float32 else ml_dtypes.bfloat16
  assert open_external(str(tmp_path)).layout.name == 'original'
  assert_loads(str(tmp_path), held)
  assert_loads(str(file), held)


def test_the_file_of_hunyuan_video(tmp_path):
  """As Tencent and models fine-tuned from its code save it: nested, in bf16."""
  section = registry.section('hunyuan_video', in_channels=8, out_channels=8, width=24, heads=2,
                             double_blocks=1, single_blocks=1, refiner_blocks=1, cond_dim=16,
                             pooled_dim=6, axes_dims=(4, 4, 4))
  family, rng = families.TABLES['hunyuan_video'], np.random.default_rng(0)
  params = trees.map_named(
      lambda _, leaf: rng.random(leaf.shape, np.float32).astype(ml_dtypes.bfloat16),
      families.shapes_of(section))
  tensors = engine.to_torch(family.layout('original').rules, params)
  assert 'double_blocks.0.img_attn_qkv.weight' in tensors
  torch.save({'module': {name: torch.tensor(array.astype(np.float32)).bfloat16()
                         for name, array in tensors.items()}},
             tmp_path / 'mp_rank_00_model_states.pt')
  (tmp_path / 'config.json').write_text(json.dumps(family.write_config(section)))
  found = trees.flatten(load_pretrained(str(tmp_path))[1])
  for path, leaf in trees.flatten(params).items():
    assert np.asarray(found[path]).tobytes() == leaf.tobytes(), path


def test_the_autoencoder_of_hunyuan_video(tmp_path):
  """``vae/`` of the release: its own class in config.json, the weights under ``state_dict``."""
  module, params = model_of('hunyuan_video_vae', np.float32)
  tensors = engine.to_torch(hunyuan_video_vae.RULES, params)
  torch.save({'state_dict': {name: torch.tensor(array) for name, array in tensors.items()}},
             tmp_path / 'pytorch_model.pt')
  (tmp_path / 'config.json').write_text(json.dumps(
      hunyuan_video_vae.RELEASED.write_config(dataclasses.asdict(module.config))))
  found, held = load_pretrained(str(tmp_path))
  assert found == module and open_external(str(tmp_path)).family is hunyuan_video_vae.RELEASED
  for path, leaf in trees.flatten(params).items():
    np.testing.assert_array_equal(trees.flatten(held)[path], leaf, err_msg=path)


def test_a_pytorch_file_in_a_bucket(tmp_path):
  module, params = model()
  file = tmp_path / 'vae.pt'
  torch.save({name: torch.tensor(array)
              for name, array in engine.to_torch(families.TABLES['wan_vae'].rules, params).items()},
             file)
  bucket = fsspec.filesystem('s3')
  bucket.put(str(file), 's3://models/torch/vae.pt')
  bucket.pipe('s3://models/torch/config.json',
              json.dumps(families.TABLES['wan_vae'].write_config(SECTION)).encode())
  assert_loads('s3://models/torch')


def test_the_cache_of_the_hub(tmp_path):
  """Offline, a cached hub model is found by its id, subfolder and revision."""
  commit = '0123456789' * 4
  repo = tmp_path / 'hub' / 'models--someone--some-model'
  snapshot = repo / 'snapshots' / commit
  save_pretrained(*model(), str(snapshot / 'vae'))
  (repo / 'refs').mkdir()
  (repo / 'refs' / 'main').write_text(commit)
  file = 'vae/diffusion_pytorch_model.safetensors'
  code = ('import sys; from jaxgen.conversion.locate import locate\n'
          'for place in sys.argv[1:]:\n  print(locate(place), flush=True)')
  result = subprocess.run(
      [sys.executable, '-c', code, 'someone/some-model/vae', f'someone/some-model@{commit}',
       f'someone/some-model/{file}', 'someone/some-model/unet'],
      env=os.environ | {'HF_HUB_CACHE': str(tmp_path / 'hub'), 'HF_HUB_OFFLINE': '1'},
      capture_output=True, text=True, check=False)
  found = result.stdout.splitlines()
  assert found == [str(snapshot / 'vae'), str(snapshot), str(snapshot / file)]
  assert (snapshot / file).exists()
  assert 'hub someone/some-model has no unet; offline, its cache may lack it' in result.stderr


@pytest.mark.parametrize('place, fetched', [
    ('', ['config.json', 'flux1-dev.safetensors', 'vae/config.json', 'vae/model.safetensors']),
    ('vae', ['vae/config.json', 'vae/model.safetensors']),
    ('flux1-dev.safetensors', ['config.json', 'flux1-dev.safetensors']),
    ('vae/model.safetensors', ['vae/config.json', 'vae/model.safetensors'])])
def test_no_more_is_fetched_than_is_read(place, fetched):
  """Uses huggingface_hub's own filter."""
  repository = ['README.md', 'config.json', 'flux1-dev.safetensors', 'vae/config.json',
                'vae/model.safetensors', 'vae/model.bin', 'dev_grid.jpg']
  assert list(filter_repo_objects(repository, allow_patterns=patterns(place))) == fetched


@pytest.mark.parametrize('repository, wanted', [
    (['config.json', 'pytorch_model.bin'], ['config.json', 'pytorch_model.bin']),
    (['config.json', 'pytorch_model.bin', 'model.safetensors'],
     ['config.json', 'model.safetensors'])])
def test_bin_is_fetched_where_there_is_nothing_else(tmp_path, monkeypatch, repository, wanted):
  """The hub's own filter, with a repository on this disk in the place of the hub."""
  def download(repo, revision, allow_patterns):
    for name in filter_repo_objects(repository, allow_patterns=allow_patterns):
      (tmp_path / name).touch()
    return str(tmp_path)

  monkeypatch.setattr(huggingface_hub, 'snapshot_download', download)
  assert locate('owner/name') == str(tmp_path)
  assert sorted(file.name for file in tmp_path.iterdir()) == sorted(wanted)
