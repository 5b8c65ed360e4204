"""Weights under the file names and dictionaries in which they are published."""

import json

import diffusers
import numpy as np
import pytest
import safetensors.numpy
import torch

from jaxgen import cli
from jaxgen.checkpoints.weights import load_weights
from jaxgen.conversion import engine
from jaxgen.conversion import families
from jaxgen.conversion import load_pretrained
from jaxgen.conversion import save_pretrained
from jaxgen.conversion.commands import import_
from jaxgen.conversion.inspection import inspect
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from tests.conversion.test_inspection import write_header
from tests.conversion.tiny import model_of

VAE = 'wan_vae'


def vae():
  """``(module, params, tensors by their names, config.json)``."""
  module, params = model_of(VAE, np.float32)
  family, config = families.exportable(module)
  return module, params, engine.to_torch(family.rules, params), config


def assert_loads(path, params):
  found = trees.flatten(load_pretrained(str(path))[1])
  for name, leaf in trees.flatten(params).items():
    np.testing.assert_array_equal(found[name], leaf, err_msg=name)


@pytest.mark.parametrize('prefix', ['module.', 'vae.', 'model.diffusion_model.', 'a.module.'])
def test_a_prefix_of_all_names_is_left_out_and_said(tmp_path, capfd, prefix):
  module, params, tensors, config = vae()
  (tmp_path / 'config.json').write_text(json.dumps(config))
  safetensors.numpy.save_file({prefix + name: np.ascontiguousarray(leaf)
                               for name, leaf in tensors.items()}, tmp_path / 'x.safetensors')
  assert_loads(tmp_path, params)
  assert f'all names begin with {prefix!r}, which is left out' in capfd.readouterr().err


@pytest.mark.parametrize('wrapper', ['_orig_mod', '_fsdp_wrapped_module',
                                     '_checkpoint_wrapped_module'])
def test_wrappers_of_torch_leave_no_trace(tmp_path, wrapper):
  """Around the whole model, and around parts of it."""
  module, params, tensors, config = vae()
  (tmp_path / 'config.json').write_text(json.dumps(config))
  names = {name: f'{wrapper}.' + name.replace('encoder.', f'encoder.{wrapper}.')
           for name in tensors}
  safetensors.numpy.save_file({names[name]: np.ascontiguousarray(leaf)
                               for name, leaf in tensors.items()}, tmp_path / 'x.safetensors')
  assert_loads(tmp_path, params)


@pytest.mark.parametrize('dtype', ['F4', 'F8_E8M0', 'F6_E2M3'])
def test_other_dtypes_are_called_unsupported(tmp_path, dtype):
  write_header(tmp_path / 'model.safetensors', {'a': (2,), 'b.scale': (4,)}, dtype, 1)
  with pytest.raises(UserError, match=f'model.safetensors: a = {dtype!r}: .* not supported'):
    inspect(str(tmp_path))
  torch.save({'a': torch.zeros(4).to(torch.float8_e8m0fnu)}, tmp_path / 'x.pt')
  with pytest.raises(UserError, match="x.pt: a = 'float8_e8m0fnu': .* not supported"):
    inspect(str(tmp_path / 'x.pt'))


class TestDictionaries:
  """Of PyTorch files."""

  @pytest.fixture
  def saved(self, tmp_path):
    """Saves a file beside a config; ``save(file)`` gives its path."""
    _, self.params, tensors, config = vae()
    self.tensors = {name: torch.tensor(leaf) for name, leaf in tensors.items()}
    self.other = {name: leaf + 1 for name, leaf in self.tensors.items()}
    (tmp_path / 'config.json').write_text(json.dumps(config))

    def save(content, name='x.pt'):
      torch.save(content, tmp_path / name)
      return tmp_path / name

    return save

  @pytest.mark.parametrize('nest', ['ema', 'state_dict_ema', 'model/state_dict', 'ema/module'])
  def test_the_only_one_is_taken(self, saved, nest):
    content = self.tensors
    for key in reversed(nest.split('/')):
      content = {key: content, 'decay': 0.99}
    optimizer = {'state': {0: {'exp_avg': torch.ones(3)}}, 'param_groups': [{'lr': 0.1}]}
    assert_loads(saved(content | dict(optimizer=optimizer, step=3)), self.params)

  def test_of_several_the_model_is_taken_and_any_can_be_chosen(self, saved, capfd):
    file = saved({'ema': self.tensors, 'model': self.other})
    assert_loads(f'{file}#ema', self.params)
    capfd.readouterr()
    assert_loads(file, plus_one(self.params))
    assert (f"x.pt: takes 'model' of the dictionaries ['ema', 'model']; another is chosen as "
            f'{file}#ema') in capfd.readouterr().err
    with pytest.raises(UserError, match=r"= 'emma': no such dictionary .* \['ema', 'model'\]"):
      load_pretrained(f'{file}#emma')
    assert import_(f'{file}#ema', str(file.parent / 'weights')).keys() == {'autoencoder'}

  def test_several_of_which_none_is_the_model_are_listed(self, saved):
    file = saved({'ema': self.tensors, 'g': self.other})
    with pytest.raises(UserError, match=r"several dictionaries of tensors: \['ema', 'g'\]; choose"):
      load_pretrained(str(file))

  def test_none_is_no_tensor(self, saved):
    assert_loads(saved(self.tensors | {'encoder.extra': None}), self.params)


def plus_one(params):
  return trees.map_named(lambda _, leaf: leaf + 1, params)


@pytest.mark.parametrize('shard', ['10GB', '2KB'])
@pytest.mark.parametrize('variant', [None, 'fp16'])
@pytest.mark.parametrize('safe', [True, False], ids=['safetensors', 'bin'])
def test_every_way_in_which_diffusers_saves(tmp_path, capfd, shard, variant, safe):
  module, params, tensors, config = vae()
  model = diffusers.AutoencoderKLWan.from_config(config)
  model.load_state_dict({name: torch.tensor(leaf) for name, leaf in tensors.items()})
  model.save_pretrained(tmp_path, safe_serialization=safe, variant=variant, max_shard_size=shard)
  names = {file.name for file in tmp_path.iterdir()}
  assert any('index' in name for name in names) == (shard == '2KB'), names
  torch.save({'lr': 0.1}, tmp_path / 'optimizer.bin')
  assert_loads(tmp_path, params)
  assert ('takes the variant' in capfd.readouterr().err) == bool(variant)
  if variant:  # the plain one comes first
    plain = {name: np.ascontiguousarray(leaf + 1) for name, leaf in tensors.items()}
    safetensors.numpy.save_file(plain, tmp_path / 'diffusion_pytorch_model.safetensors')
    assert_loads(tmp_path, plus_one(params))


def test_several_variants_are_listed(tmp_path):
  module, params, tensors, config = vae()
  (tmp_path / 'config.json').write_text(json.dumps(config))
  tensors = {name: np.ascontiguousarray(leaf) for name, leaf in tensors.items()}
  for variant in ('fp16', 'ema'):
    safetensors.numpy.save_file(tensors, tmp_path / f'model.{variant}.safetensors')
  with pytest.raises(UserError, match="'model.ema.safetensors', 'model.fp16.safetensors'"):
    load_pretrained(str(tmp_path))
  assert_loads(tmp_path / 'model.ema.safetensors', params)


def test_an_index_can_be_given_and_other_files_are_named(tmp_path):
  module, params = model_of(VAE, np.float32)
  config = families.exportable(module)[1]
  model = diffusers.AutoencoderKLWan.from_config(config)
  for variant in ('fp16', 'ema'):
    model.save_pretrained(tmp_path, variant=variant, max_shard_size='2KB')
  names = [f'diffusion_pytorch_model.safetensors.index.{variant}.json'
           for variant in ('ema', 'fp16')]
  with pytest.raises(UserError, match=f'{names[0]}.*{names[1]}.*holds several files of weights'):
    load_pretrained(str(tmp_path))
  assert load_pretrained(str(tmp_path / names[0]))[0] == module
  (tmp_path / 'model.gguf').write_bytes(b'GGUF' + bytes(100))
  with pytest.raises(UserError, match='model.gguf: no file of weights that can be read'):
    load_pretrained(str(tmp_path / 'model.gguf'))


def test_a_pipeline_with_an_unknown_part_names_the_others(tmp_path):
  module, params = model_of(VAE, np.float32)
  save_pretrained(module, params, str(tmp_path / 'pipe' / 'vae'))
  (tmp_path / 'pipe' / 'text_encoder').mkdir()
  (tmp_path / 'pipe' / 'text_encoder' / 'config.json').write_text('{"model_type": "umt5"}')
  with pytest.raises(UserError, match=rf"text_encoder/config.json = 'umt5': not a model .*; or "
                     rf'import another part of the pipeline alone: {tmp_path}/pipe/vae'):
    import_(str(tmp_path / 'pipe'), str(tmp_path / 'out'))
  assert not (tmp_path / 'out').exists()


def test_the_file_of_openuni(tmp_path, capfd):
  """Connector, projector and queries in one ``.pth``, which ``import`` takes apart."""
  sections = {'bridge': registry.section('learnable_queries', width=128, queries=5),
              'connector': registry.section('encoder_connector', width=128, layers=2, heads=2,
                                            mlp=24, out_width=6)}
  state, params, rng = {}, {}, np.random.default_rng(0)
  for group, section in sections.items():
    params[group] = trees.map_named(lambda _, leaf: rng.random(leaf.shape, np.float32),
                                    families.shapes_of(section))
    tensors = engine.to_torch(families.TABLES[section['family']].rules, params[group])
    state |= {name: torch.tensor(leaf) for name, leaf in tensors.items()}
  torch.save({'state_dict': state}, tmp_path / 'openuni.pth')
  with pytest.raises(UserError, match='holds several models .*; take them apart with jaxgen'):
    load_pretrained(str(tmp_path / 'openuni.pth'))
  words = ['convert', 'import', f'--path={tmp_path}/openuni.pth', f'--out={tmp_path}/weights']
  assert cli.main(words) == 0
  capfd.readouterr()
  config = json.loads((tmp_path / 'weights' / 'config.json').read_text())
  assert config['model'] == json.loads(json.dumps(sections))
  held = trees.flatten(load_weights(str(tmp_path / 'weights'), ['bridge', 'connector'])[0])
  for path, leaf in trees.flatten(params).items():
    np.testing.assert_array_equal(held[path], leaf, err_msg=path)
