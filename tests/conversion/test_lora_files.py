"""Adapters in single files, under the names of other programs."""

import numpy as np
import pytest
import safetensors.numpy

from jaxgen.conversion.lora import Adapter
from jaxgen.conversion.lora_files import COMFYUI
from jaxgen.conversion.lora_files import DIFFUSERS
from jaxgen.conversion.lora_files import PEFT
from jaxgen.conversion.lora_files import load_file
from jaxgen.conversion.lora_files import save_file
from jaxgen.core.errors import UserError


def adapters():
  rng = np.random.default_rng(0)
  return {f'double_blocks.{i}.img_attn.qkv': Adapter(
      rng.random((2 + i, 6), np.float32), rng.random((2 + i, 9), np.float32).T, 4.0)
          for i in range(2)}


@pytest.mark.parametrize('style', [COMFYUI, DIFFUSERS, PEFT], ids=['comfyui', 'diffusers', 'peft'])
def test_a_file_comes_back(tmp_path, style):
  file = str(tmp_path / 'deep' / 'lora.safetensors')
  save_file(file, adapters(), style)
  assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['lora.safetensors']
  back = load_file(file, style)
  assert back.keys() == adapters().keys()
  for module, adapter in adapters().items():
    np.testing.assert_array_equal(back[module].down, adapter.down)
    np.testing.assert_array_equal(back[module].up, adapter.up)
    # Without a tensor for it, alpha is the rank.
    assert back[module].alpha == (adapter.alpha if style.alpha else adapter.rank)


def test_names_are_those_of_comfyui(tmp_path):
  save_file(str(tmp_path / 'lora.safetensors'), adapters(), COMFYUI)
  tensors = safetensors.numpy.load_file(tmp_path / 'lora.safetensors')
  prefix = 'diffusion_model.double_blocks.1.img_attn.qkv'
  assert tensors[f'{prefix}.lora_down.weight'].shape == (3, 6)
  assert tensors[f'{prefix}.lora_up.weight'].shape == (9, 3)
  assert tensors[f'{prefix}.alpha'].shape == () and tensors[f'{prefix}.alpha'] == 4


def test_mistakes_are_named(tmp_path):
  file = str(tmp_path / 'lora.safetensors')
  with pytest.raises(UserError, match='there are no adapters to write'):
    save_file(file, {}, COMFYUI)
  save_file(file, adapters(), COMFYUI)
  with pytest.raises(UserError, match='exists; choose another --out'):
    save_file(file, adapters(), COMFYUI)
  with pytest.raises(UserError, match='6 tensors that are no LoRA of this style'):
    load_file(file, DIFFUSERS)
