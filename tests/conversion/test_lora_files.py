"""Adapters in files: the names of every program, and how strong they are, against its own code."""

import dataclasses
import json

import diffusers
import numpy as np
import peft
import pytest
import safetensors.numpy
import torch
from diffusers.training_utils import _collate_lora_metadata

from jaxgen.conversion import lora_config
from jaxgen.conversion.inspection import inspect
from jaxgen.conversion.lora import Adapter
from jaxgen.conversion.lora_files import COMFYUI
from jaxgen.conversion.lora_files import CONFIG
from jaxgen.conversion.lora_files import DIFFUSERS
from jaxgen.conversion.lora_files import PEFT
from jaxgen.conversion.lora_files import find
from jaxgen.conversion.lora_files import save_file
from jaxgen.core.errors import UserError

MODULES = ['double_blocks.0.img_attn.qkv', 'double_blocks.1.img_attn.qkv', 'final_layer.linear']


def adapters():
  rng = np.random.default_rng(0)
  return {f'double_blocks.{i}.img_attn.qkv': Adapter(
      rng.random((2 + i, 6), np.float32), rng.random((2 + i, 9), np.float32).T, 4.0)
          for i in range(2)}


def assert_same(found, alpha=None):
  """``alpha`` None: that of each adapter."""
  assert found.keys() == adapters().keys()
  for module, adapter in adapters().items():
    np.testing.assert_array_equal(found[module].down, adapter.down)
    np.testing.assert_array_equal(found[module].up, adapter.up)
    assert found[module].alpha == (adapter.alpha if alpha is None else adapter.rank)


@pytest.mark.parametrize('style', [COMFYUI, DIFFUSERS, PEFT], ids=['comfyui', 'diffusers', 'peft'])
def test_a_file_comes_back(tmp_path, style):
  file = str(tmp_path / 'deep' / 'lora.safetensors')
  save_file(file, adapters(), style)
  assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['lora.safetensors']
  found = find(file)
  assert found.strength == ('its tensors' if style.alpha else
                            'the ranks, as the file does not say it')
  assert_same(found.of(MODULES), None if style.alpha else 'rank')


def test_names_are_those_of_comfyui(tmp_path):
  save_file(str(tmp_path / 'lora.safetensors'), adapters(), COMFYUI)
  tensors = safetensors.numpy.load_file(tmp_path / 'lora.safetensors')
  prefix = 'diffusion_model.double_blocks.1.img_attn.qkv'
  assert tensors[f'{prefix}.lora_down.weight'].shape == (3, 6)
  assert tensors[f'{prefix}.lora_up.weight'].shape == (9, 3)
  assert tensors[f'{prefix}.alpha'].shape == () and tensors[f'{prefix}.alpha'] == 4


def write(file, prefix='', down='lora_A.weight', up='lora_B.weight', alpha=None, metadata=None):
  tensors, flat = {}, prefix.endswith('_')
  for module, adapter in adapters().items():
    name = prefix + (module.replace('.', '_') if flat else module)
    tensors |= {f'{name}.{down}': adapter.down, f'{name}.{up}': np.ascontiguousarray(adapter.up)}
    if alpha is not None:
      tensors[f'{name}.alpha'] = np.asarray(alpha, np.float32)
  safetensors.numpy.save_file(tensors, file, metadata)


@pytest.mark.parametrize('prefix', ['', 'transformer.', 'diffusion_model.', 'base_model.model.',
                                    'model.diffusion_model.', 'unet.', 'lora_unet_',
                                    'lora_transformer_'])
@pytest.mark.parametrize('down, up', [
    ('lora_A.weight', 'lora_B.weight'), ('lora_down.weight', 'lora_up.weight'),
    ('lora.down.weight', 'lora.up.weight'), ('lora_A.default.weight', 'lora_B.default.weight')])
def test_prefix_and_suffix_vary_independently(tmp_path, prefix, down, up):
  write(tmp_path / 'x.safetensors', prefix, down, up, alpha=4.0)
  assert_same(find(str(tmp_path / 'x.safetensors')).of(MODULES))


def test_what_all_modules_begin_with_may_be_left_out(tmp_path):
  write(tmp_path / 'x.safetensors', 'diffusion_model.', alpha=4.0)
  found = find(str(tmp_path / 'x.safetensors')).of([f'net.{module}' for module in MODULES])
  assert sorted(found) == sorted(f'net.{module}' for module in adapters())


def test_alpha_may_be_an_array_of_one_number(tmp_path):
  file = str(tmp_path / 'x.safetensors')
  write(file, alpha=[4.0])
  assert_same(find(file).of(MODULES))
  for wrong in ([4.0, 5.0], np.nan):
    write(file, alpha=wrong)
    with pytest.raises(UserError, match='img_attn.qkv = .*: alpha must be one finite number'):
      find(file)


@pytest.mark.parametrize('names', [
    ['lora_unet_a.hada_w1_a', 'lora_unet_a.hada_w1_b', 'lora_unet_a.hada_w2_a'],
    ['a.lokr_w1', 'a.lokr_w2'], ['blocks.0.processor.proj_lora1.down.weight'],
    ['to_q_lora.down.weight', 'to_q_lora.up.weight']])
def test_another_naming_is_called_that(tmp_path, names):
  file = str(tmp_path / 'x.safetensors')
  safetensors.numpy.save_file({name: np.zeros((2, 2), np.float32) for name in names}, file)
  with pytest.raises(UserError, match=f'a LoRA in a naming that is not supported: {names[0]}'):
    find(file)
  with pytest.raises(UserError, match='holds LoRA adapters and no model'):
    inspect(file)


def test_mistakes_are_named(tmp_path):
  file = str(tmp_path / 'lora.safetensors')
  with pytest.raises(UserError, match='there are no adapters to write'):
    save_file(file, {}, COMFYUI)
  save_file(file, adapters(), COMFYUI)
  with pytest.raises(UserError, match='exists; choose another --out'):
    save_file(file, adapters(), COMFYUI)
  tensors = safetensors.numpy.load_file(file)
  del tensors[f'diffusion_model.{MODULES[0]}.lora_up.weight']
  tensors[f'diffusion_model.{MODULES[1]}.dora_scale'] = np.ones(3, np.float32)
  safetensors.numpy.save_file(tensors, file)
  with pytest.raises(UserError, match='2 tensors that are no plain LoRA of a matrix, or half'):
    find(file)
  safetensors.numpy.save_file({'blocks.0.weight': np.ones(3, np.float32)}, file)
  assert find(file) is None


# What diffusers saves.

FLUX = dict(num_layers=1, num_single_layers=1, attention_head_dim=8, num_attention_heads=2,
            joint_attention_dim=16, pooled_projection_dim=6, in_channels=8,
            axes_dims_rope=(2, 2, 4))
TO_Q = 'transformer_blocks.0.attn.to_q'


@pytest.fixture(scope='module')
def flux():
  model = diffusers.FluxTransformer2DModel(**FLUX)
  model.add_adapter(peft.LoraConfig(r=4, lora_alpha=16, target_modules=['to_q', 'to_k'],
                                    alpha_pattern={'to_k': 6}, init_lora_weights=False))
  return model


def test_the_strength_in_the_header_of_diffusers_is_read(flux, tmp_path):
  """``save_lora_weights`` of a pipeline, and ``save_lora_adapter`` of a model."""
  modules = [name for name, module in flux.named_modules() if isinstance(module, torch.nn.Linear)]
  modules += [TO_Q, TO_Q.replace('to_q', 'to_k')]
  diffusers.FluxPipeline.save_lora_weights(
      tmp_path / 'pipeline', peft.get_peft_model_state_dict(flux),
      **_collate_lora_metadata({'transformer': flux}))
  flux.save_lora_adapter(tmp_path / 'model')
  for folder in ('pipeline', 'model'):
    found = find(str(tmp_path / folder))
    assert found.strength == lora_config.METADATA
    held = found.of(modules)
    assert held[TO_Q].rank == 4 and held[TO_Q].alpha == 16
    assert held[TO_Q.replace('to_q', 'to_k')].alpha == 6
    base = flux.get_submodule(TO_Q)
    np.testing.assert_allclose(
        held[TO_Q].up @ held[TO_Q].down * held[TO_Q].alpha / 4,
        base.get_delta_weight('default').detach().numpy(), rtol=1e-5)


def test_two_strengths_must_agree(tmp_path):
  file, fields = str(tmp_path / 'x.safetensors'), {'transformer.lora_alpha': 4}
  write(file, 'transformer.', alpha=4.0, metadata={lora_config.METADATA: json.dumps(fields)})
  assert_same(find(file).of(MODULES))
  write(file, 'transformer.', alpha=2.0, metadata={lora_config.METADATA: json.dumps(fields)})
  with pytest.raises(UserError, match='= 2.0: alpha in the tensors, but 4.0 in the config'):
    find(file)
  write(file, 'transformer.', metadata={lora_config.METADATA: '[4'})
  with pytest.raises(UserError, match='lora_adapter_metadata: is no JSON object'):
    find(file)
  write(file, 'transformer.', metadata={lora_config.METADATA: json.dumps(
      fields | {'transformer.use_dora': True})})
  with pytest.raises(UserError, match='use_dora = True: is not supported'):
    find(file)


# What peft saves.

def adapted(**fields):
  """A model of one matrix with adapters of peft, changed as if trained."""
  torch.manual_seed(0)
  model = peft.get_peft_model(torch.nn.ModuleDict({'q': torch.nn.Linear(8, 6)}), peft.LoraConfig(
      r=4, lora_alpha=16, target_modules=['q'], **fields))
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if 'lora_' in name:
        parameter.add_(torch.randn_like(parameter))
  return model


@pytest.mark.parametrize('fields', [
    dict(), dict(init_lora_weights='gaussian'), dict(init_lora_weights='orthogonal'),
    dict(use_rslora=True), dict(alpha_pattern={'q': 3}), dict(lora_dropout=0.5)], ids=str)
def test_what_peft_adds_is_read(tmp_path, fields):
  model = adapted(**fields)
  model.save_pretrained(str(tmp_path))
  wanted = model.base_model.model['q'].get_delta_weight('default').detach().numpy()
  for path in (tmp_path, tmp_path / 'adapter_model.safetensors'):
    found = find(str(path))
    adapter = found.of(['q'])['q']
    assert found.strength == CONFIG
    np.testing.assert_allclose(
        adapter.up @ adapter.down * adapter.alpha / adapter.rank, wanted, rtol=1e-5)


@pytest.mark.parametrize('fields', [
    dict(init_lora_weights='pissa'), dict(init_lora_weights='pissa_niter_4'),
    dict(init_lora_weights='olora'), dict(use_dora=True), dict(lora_bias=True),
    dict(bias='all')], ids=str)
def test_what_changes_more_than_the_adapters_is_refused(tmp_path, fields):
  adapted(**fields).save_pretrained(str(tmp_path))
  field, value = next(iter(fields.items()))
  with pytest.raises(UserError, match=rf'{CONFIG}: {field} = {value!r}: is not supported'):
    find(str(tmp_path))


def test_every_field_of_peft_is_refused_unless_it_is_known():
  """Those of versions to come too, unless they are off."""
  plain = json.loads(json.dumps(peft.LoraConfig(target_modules=['q']).to_dict(), default=list))
  lora_config.check(plain, 'x')
  known = {field.name for field in dataclasses.fields(peft.LoraConfig)}
  wrong = {'init_lora_weights': ['loftq', 'corda', 'lora_ga'], 'layer_replication': [[[0, 2]]],
           'modules_to_save': [['q']], 'target_parameters': [['q']], 'of_tomorrow': [1, 'on']}
  assert known > wrong.keys() - {'of_tomorrow'}
  for field in (known | wrong.keys()) - lora_config._HARMLESS:
    for value in wrong.get(field, ['something']):
      with pytest.raises(UserError, match=f'x: {field} = '):
        lora_config.check(plain | {field: value}, 'x')
    lora_config.check(plain | {field: None}, 'x')
