"""Folders of PyTorch classes are imported, and their classes read our exports, byte for byte."""

import re

import diffusers
import jax.numpy as jnp
import pytest
import torch
import transformers

from jaxgen.conversion import families
from jaxgen.conversion import load_pretrained
from jaxgen.conversion import save_pretrained
from jaxgen.models import registry
from tests.conversion.tiny import TINY

# (family, class that writes a folder).
CLASSES = [
    ('mmdit', diffusers.FluxTransformer2DModel),
    ('hunyuan_video', diffusers.HunyuanVideoTransformer3DModel),
    ('qwen_image', diffusers.QwenImageTransformer2DModel),
    ('sd3', diffusers.SD3Transformer2DModel),
    ('z_image', diffusers.ZImageTransformer2DModel),
    ('cosmos', diffusers.CosmosTransformer3DModel),
    ('sana', diffusers.SanaTransformer2DModel),
    ('kl', diffusers.AutoencoderKL),
    ('hunyuan_video_vae', diffusers.AutoencoderKLHunyuanVideo),
    ('wan_vae', diffusers.AutoencoderKLWan),
    ('wan_vae', diffusers.AutoencoderKLQwenImage),
    ('dc_ae', diffusers.AutoencoderDC),
    ('internvl', transformers.InternVLForConditionalGeneration),
    ('qwen2_5_vl', transformers.Qwen2_5_VLForConditionalGeneration),
    ('llama', transformers.LlamaModel),
    ('llama', transformers.LlamaForCausalLM),
    ('qwen3', transformers.Qwen3Model),
    ('qwen3', transformers.Qwen3ForCausalLM),
    ('t5', transformers.T5EncoderModel),
    ('clip_text', transformers.CLIPTextModel),
    ('clip_text', transformers.CLIPModel),
    ('clip', transformers.CLIPModel),
    ('siglip', transformers.SiglipModel),
    ('siglip2', transformers.Siglip2Model),
    ('dino', transformers.ViTModel),
    ('dinov2', transformers.Dinov2Model),
    ('dinov2_registers', transformers.Dinov2WithRegistersModel),
]
# Classes whose folders come in under the name of another, which reads what goes out.
READERS = {('wan_vae', diffusers.AutoencoderKLQwenImage): diffusers.AutoencoderKLWan,
           ('clip_text', transformers.CLIPModel): transformers.CLIPTextModel}


def section_of(name, kind):
  tied = dict(tie_embeddings=True) if kind in (transformers.LlamaModel, transformers.Qwen3Model
                                               ) else {}
  return registry.section(name, **TINY[name] | tied)


def make(name, kind, dtype):
  """A model of the class with random parameters."""
  config = families.TABLES[name].write_config(section_of(name, kind))
  torch.manual_seed(0)
  if issubclass(kind, diffusers.ModelMixin):
    model = kind.from_config(config)
  elif name == 'clip_text' and kind is transformers.CLIPModel:
    vision = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2,
                  image_size=4, patch_size=2)
    model = kind(transformers.CLIPConfig(text_config=config, vision_config=vision))
  else:
    model = kind(kind.config_class.from_dict(config))
  for parameter in model.parameters():
    torch.nn.init.normal_(parameter)
  return model.to(dtype)


def bits_of(model):
  return {name: tensor.contiguous().view(-1).view(torch.uint8)
          for name, tensor in model.state_dict().items()}


def test_every_family_with_a_class_is_here():
  assert {name for name, _ in CLASSES} == {
      name for name, family in families.TABLES.items() if family.layouts[0].name != 'jaxgen'}


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('name, kind', CLASSES, ids=[
    f'{name}-{kind.__name__}' for name, kind in CLASSES])
def test_torch_to_jaxgen_to_torch(tmp_path, name, kind, dtype):
  """The class writes several files with an index, and reads ours."""
  theirs, reader = make(name, kind, getattr(torch, dtype)), READERS.get((name, kind), kind)
  first, second = str(tmp_path / 'first'), str(tmp_path / 'second')
  size = sum(tensor.nbytes for tensor in theirs.state_dict().values())
  theirs.save_pretrained(first, max_shard_size=size // 12)
  assert len(list((tmp_path / 'first').glob('*.safetensors'))) > 2
  module, params = load_pretrained(first, group=registry.FAMILIES[name].group)
  assert module == registry.build(section_of(name, kind), jnp.dtype(dtype))
  layout = 'causal_lm' if kind.__name__.endswith('ForCausalLM') else ''
  save_pretrained(module, params, second, layout=layout)
  wanted = {'torch_dtype' if issubclass(kind, diffusers.ModelMixin) else 'dtype':
            getattr(torch, dtype)}
  again, report = reader.from_pretrained(second, output_loading_info=True, **wanted)
  before, after = bits_of(theirs), bits_of(again)
  untrained = set(report.pop('missing_keys'))  # the pooler of a DINO, whose class asks for one
  assert all(re.fullmatch(families.TABLES[name].extras, tensor) for tensor in untrained)
  assert not any(report.values()), report
  if name == 'clip_text' and kind is transformers.CLIPModel:
    before = {name.removeprefix('text_model.'): bits for name, bits in before.items()
              if name.startswith('text_model.')}
  assert before.keys() == after.keys()
  for tensor, bits in before.items():
    assert tensor in untrained or torch.equal(after[tensor], bits), tensor
