"""iMontage's file and HunyuanVideo's folders as they are published, in and out, and as a start."""

import dataclasses
import json
import math
import pathlib

import numpy as np
import pytest
import safetensors.torch
import torch

from configs.imontage import pretrain
from configs.imontage import shapes
from jaxgen import cli
from jaxgen.conversion import engine
from jaxgen.conversion import families
from jaxgen.conversion.pretrained import read_external
from jaxgen.conversion.tables import hunyuan_video
from jaxgen.conversion.tables import hunyuan_video_vae
from jaxgen.core import trees
from jaxgen.models import registry
from jaxgen.systems.registry import make_system
from jaxgen.training.init_from import load_group
from tests.conversion.tiny import model_of

TINY = dict(width=24, head=12, text=16, pooled=6, channels=3, double=2, single=2)
SECTION = registry.section('hunyuan_video', in_channels=12, out_channels=12, width=24, heads=2,
                           cond_dim=16, pooled_dim=6, double_blocks=2, single_blocks=2,
                           axes_dims=(4, 4, 4))


def released(*, width=3072, head=128, text=4096, pooled=768, channels=16, double=20, single=40
             ) -> dict[str, tuple[int, ...]]:
  """Names and shapes of the published transformer, written down from the code of the releases."""
  found = {}

  def linear(name, out, inside, *kernel):
    found[f'{name}.weight'], found[f'{name}.bias'] = (out, inside, *kernel), (out,)

  def mlp(name, first, second, inside):
    linear(f'{name}.{first}', width, inside)
    linear(f'{name}.{second}', width, width)

  linear('img_in.proj', width, channels, 1, 2, 2)
  linear('txt_in.input_embedder', width, text)
  mlp('txt_in.t_embedder', 'mlp.0', 'mlp.2', 256)
  mlp('txt_in.c_embedder', 'linear_1', 'linear_2', text)
  for block in range(2):
    name = f'txt_in.individual_token_refiner.blocks.{block}'
    for norm in ('norm1', 'norm2'):
      found[f'{name}.{norm}.weight'] = found[f'{name}.{norm}.bias'] = (width,)
    for part, out, inside in (('self_attn_qkv', 3, 1), ('self_attn_proj', 1, 1), ('mlp.fc1', 4, 1),
                              ('mlp.fc2', 1, 4), ('adaLN_modulation.1', 2, 1)):
      linear(f'{name}.{part}', out * width, inside * width)
  mlp('time_in', 'mlp.0', 'mlp.2', 256)
  mlp('vector_in', 'in_layer', 'out_layer', pooled)
  mlp('guidance_in', 'mlp.0', 'mlp.2', 256)
  for block in range(double):
    for stream in ('img', 'txt'):
      name = f'double_blocks.{block}.{stream}'
      for part, out, inside in (('mod.linear', 6, 1), ('attn_qkv', 3, 1), ('attn_proj', 1, 1),
                                ('mlp.fc1', 4, 1), ('mlp.fc2', 1, 4)):
        linear(f'{name}_{part}', out * width, inside * width)
      found[f'{name}_attn_q_norm.weight'] = found[f'{name}_attn_k_norm.weight'] = (head,)
  for block in range(single):
    name = f'single_blocks.{block}'
    for part, out, inside in (('linear1', 7, 1), ('linear2', 1, 5), ('modulation.linear', 3, 1)):
      linear(f'{name}.{part}', out * width, inside * width)
    found[f'{name}.q_norm.weight'] = found[f'{name}.k_norm.weight'] = (head,)
  linear('final_layer.linear', 4 * channels, width)
  linear('final_layer.adaLN_modulation.1', 2 * width, width)
  return found


def states(seed: int) -> dict[str, torch.Tensor]:
  """A tiny transformer under the published names, in the dtype of the release."""
  generator = torch.Generator().manual_seed(seed)
  return {name: torch.randn(shape, generator=generator).bfloat16()
          for name, shape in released(**TINY).items()}


def autoencoder() -> tuple[dict, dict[str, torch.Tensor]]:
  """config.json and tensors of a tiny autoencoder, as the class of the release has them."""
  module, params = model_of('hunyuan_video_vae', np.float32)
  tensors = engine.to_torch(hunyuan_video_vae.RULES, params)
  return (hunyuan_video_vae.RELEASED.write_config(dataclasses.asdict(module.config)),
          {name: torch.tensor(np.ascontiguousarray(array)) for name, array in tensors.items()})


def write_config(folder: pathlib.Path, **fields) -> None:
  """Sizes that are not the published ones are read from a config.json beside the file."""
  config = hunyuan_video.FAMILY.write_config(SECTION | fields)
  (folder / 'config.json').write_text(json.dumps(config))


def test_every_name_and_shape_of_the_release_is_that_of_the_full_config():
  names = released()
  ours = make_system(pretrain.get_config()).shapes(['denoiser'])['denoiser']
  rules = families.TABLES['hunyuan_video'].layout('original').rules
  assert engine.names_and_shapes(rules, ours) == names
  assert sum(map(math.prod, names.values())) == 12_821_012_544


@pytest.fixture
def imontage(tmp_path) -> pathlib.Path:
  """The one file of the published iMontage, as safetensors' own library writes it."""
  folder = tmp_path / 'iMontage'
  folder.mkdir()
  safetensors.torch.save_file(states(0), folder / 'diffusion_pytorch_model.safetensors',
                              metadata={'format': 'pt'})
  write_config(folder)
  return folder


def test_the_file_of_imontage_goes_in_and_out_byte_for_byte(imontage, tmp_path):
  assert cli.main(['convert', 'import', f'--path={imontage}', f'--out={tmp_path / "in"}']) == 0
  assert cli.main(['convert', 'export', f'--workdir={tmp_path / "in"}', '--layout=original',
                   f'--out={tmp_path / "out"}']) == 0
  file = 'diffusion_pytorch_model.safetensors'
  assert (tmp_path / 'out/denoiser' / file).read_bytes() == (imontage / file).read_bytes()


@pytest.mark.parametrize('kind, clean', [('t2v', 'same'), ('i2v', 'zero')])
def test_the_folders_of_hunyuan_video_go_in_and_out_byte_for_byte(tmp_path, capfd, kind, clean):
  """Transformer with its fp8 copies, autoencoder and adapters, as they lie beside one another."""
  root = tmp_path / f'hunyuan-video-{kind}-720p'
  for name in ('transformers', 'vae', 'lora'):
    (root / name).mkdir(parents=True)
  tensors, (config, pixels) = states(1), autoencoder()
  torch.save({'module': tensors}, root / 'transformers/mp_rank_00_model_states.pt')
  for other in ('fp8', 'fp8_map'):
    torch.save({'module': {'x': torch.zeros(1)}},
               root / f'transformers/mp_rank_00_model_states_{other}.pt')
  write_config(root / 'transformers', clean_time=clean)
  torch.save({'state_dict': {f'vae.{name}': tensor for name, tensor in pixels.items()}},
             root / 'vae/pytorch_model.pt')
  (root / 'vae/config.json').write_text(json.dumps(config))
  pair = {f'transformer.single_blocks.0.linear2.lora_{half}.weight': torch.zeros(shape)
          for half, shape in (('A', (1, 120)), ('B', (24, 1)))}
  safetensors.torch.save_file(pair, root / 'lora/effect.safetensors')

  assert cli.main(['convert', 'inspect', str(root)]) == 1
  assert 'holds several models (lora, transformers, vae); give the path' in capfd.readouterr().err
  assert cli.main(['convert', 'inspect', str(root / 'transformers')]) == 0
  out, err = capfd.readouterr()
  assert 'HunyuanVideoTransformer3DModel, family hunyuan_video, original names' in out
  assert f'{root}/transformers: takes mp_rank_00_model_states.pt, of which the other files' in err
  assert cli.main(['convert', 'import', f'--path={root}', f'--out={tmp_path / "in"}']) == 0
  assert f'{root}/lora: holds adapters, which are left out' in capfd.readouterr().err
  assert cli.main(['convert', 'export', f'--workdir={tmp_path / "in"}', '--layout=original',
                   f'--out={tmp_path / "out"}']) == 0
  for folder, sent in (('denoiser', tensors), ('autoencoder', pixels)):
    expected = tmp_path / f'{folder}.safetensors'
    safetensors.torch.save_file(sent, expected, metadata={'format': 'pt'})
    written = tmp_path / 'out' / folder / 'diffusion_pytorch_model.safetensors'
    assert written.read_bytes() == expected.read_bytes(), folder
  read = json.loads((tmp_path / 'in/config.json').read_text())['model']
  assert read['denoiser']['clean_time'] == clean
  assert read['autoencoder']['tiling']['size'] == config['sample_size']


def test_a_run_starts_from_the_file_by_one_line(imontage):
  config = shapes.tiny()
  config.model.denoiser = SECTION
  config.model.text_encoder.width = SECTION['cond_dim']
  config.model.text_encoder_2.width = SECTION['pooled_dim']
  config.model.autoencoder.factor = 1
  config.init_from.denoiser = str(imontage)  # the line
  shapes_of = make_system(config).shapes()
  tree, words, _ = load_group(config, 'denoiser', shapes_of, read_external)
  assert words == f'from {imontage}'
  expected = engine.from_torch(hunyuan_video.ORIGINAL_RULES, {
      name: tensor.float().numpy() for name, tensor in states(0).items()}, shapes_of['denoiser'])
  found, expected = trees.flatten(tree), trees.flatten(expected)
  assert found.keys() == expected.keys()
  for path, leaf in expected.items():
    np.testing.assert_array_equal(np.asarray(found[path]).astype(np.float32), leaf, err_msg=path)
