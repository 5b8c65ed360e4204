"""Models described from their headers alone, even with twelve billion parameters."""

import json

import numpy as np
import pytest

from jaxgen import cli
from jaxgen.conversion import engine
from jaxgen.conversion import families
from jaxgen.conversion.inspection import inspect
from jaxgen.models import registry
from jaxgen.models.encoders.image_text import CLIP_B32
from jaxgen.models.encoders.image_tower import DINO_S16


def write_header(file, shapes, dtype='BF16', size=2):
  """A safetensors file with a real header and sparse data."""
  header, end = {'__metadata__': {'format': 'pt'}}, 0
  for name, shape in shapes.items():
    start, end = end, end + size * int(np.prod(shape))
    header[name] = {'dtype': dtype, 'shape': list(shape), 'data_offsets': [start, end]}
  text = json.dumps(header).encode()
  with open(file, 'wb') as out:
    out.write(len(text).to_bytes(8, 'little') + text)
    out.truncate(8 + len(text) + end)


def names_of(name, layout, **fields):
  section = registry.section(name, **fields)
  return engine.names_and_shapes(families.TABLES[name].layout(layout).rules,
                                 families.shapes_of(section))


def test_a_release_without_a_config(tmp_path, capsys):
  """HunyuanVideo's names and published sizes are enough."""
  shapes = names_of('hunyuan_video', 'original')
  write_header(tmp_path / 'model.safetensors', shapes)
  assert cli.main(['convert', 'inspect', str(tmp_path), f'--json={tmp_path}/found.json']) == 0
  text = capsys.readouterr().out
  assert 'HunyuanVideoTransformer3DModel, family hunyuan_video, original names' in text
  assert 'every tensor fits' in text
  found = json.loads((tmp_path / 'found.json').read_text())
  assert abs(found['parameters'] - 12.82e9) < 0.01e9
  assert found['bytes'] == 2 * found['parameters']
  assert found['dtypes'] == {'bfloat16': found['parameters']}
  assert found['missing'] == found['unknown'] == found['misshapen'] == []


def test_what_does_not_fit_is_listed(tmp_path, capsys):
  shapes = names_of('mmdit', 'diffusers', pooled_dim=768, guidance_embed=True)
  config = families.TABLES['mmdit'].write_config(
      registry.section('mmdit', pooled_dim=768, guidance_embed=True))
  (tmp_path / 'config.json').write_text(json.dumps(config))
  shapes['stray'] = (2, 3)
  shapes['proj_out.bias'] = (63,)
  del shapes['x_embedder.bias']
  write_header(tmp_path / 'diffusion_pytorch_model.safetensors', shapes, 'F32', 4)
  found = inspect(str(tmp_path))
  assert found['family'] == 'mmdit' and found['layout'] == 'diffusers'
  assert found['missing'] == ['x_embedder.bias'] and found['unknown'] == ['stray']
  assert found['misshapen'] == ['proj_out.bias (63,) (needs (64,))']
  assert cli.main(['convert', 'inspect', str(tmp_path)]) == 1
  output = capsys.readouterr()
  assert '1 misshapen: proj_out.bias (63,) (needs (64,))' in output.out
  assert 'would not load' in output.err and len(output.err.splitlines()) == 1


@pytest.mark.parametrize('name, file, fields, told', [
    ('mmdit', 'flux1-schnell.safetensors', dict(pooled_dim=768), 'FLUX.1-schnell'),
    ('cosmos', 'model.safetensors', dict(qk_epsilon=1e-6), 'Cosmos-Predict2.5 2B'),
    ('wan_vae', 'vae.safetensors', {}, 'Wan 2.1'),
    ('kl', 'ae.safetensors', {}, 'FLUX.1'),
    ('kl', 'sd3_vae.safetensors', dict(scaling=1.5305, shift=0.0609), 'Stable Diffusion 3'),
    ('hunyuan_video', 'hunyuan_video_i2v.safetensors', dict(clean_time='zero'),
     'HunyuanVideo-I2V'),
    ('hunyuan_video', 'iMontage/diffusion_pytorch_model.safetensors', {}, 'iMontage'),
    ('hunyuan_video', 'hunyuan_video_i2v/iMontage_ckpts/model.safetensors', {}, 'iMontage'),
    ('hunyuan_video', 'iMontage/ckpts/hunyuan-video-i2v-720p/transformers/model.safetensors',
     dict(clean_time='zero'), 'HunyuanVideo-I2V'),
    ('hunyuan_video', 'iMontage/ckpts/hunyuan-video-t2v-720p/transformers/model.safetensors', {},
     'HunyuanVideo'),
])
def test_releases_are_known_by_their_names(tmp_path, capfd, name, file, fields, told):
  """Also by their path, where the tensors do not tell: see ``Release``."""
  shapes = names_of(name, 'original', **fields)
  if name == 'cosmos':
    shapes['net.pos_embedder.seq'] = (7,)
  if name == 'mmdit':  # as in the files of ComfyUI
    shapes = {f'model.diffusion_model.{tensor}': shape for tensor, shape in shapes.items()}
  (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
  write_header(tmp_path / file, shapes)
  found = inspect(str(tmp_path / file))
  assert f'no config.json; by its tensors this is {told}, with' in capfd.readouterr().err
  assert (found['family'], found['layout']) == (name, 'original')
  assert found['section'] == registry.section(name, **fields)
  assert not found['missing'] + found['unknown'] + found['misshapen']
  assert found['group'] == registry.FAMILIES[name].group


@pytest.mark.parametrize('section, told', [
    (CLIP_B32, 'clip, family clip_text, transformers names, for config.model.text_encoder_2, or as '
     'clip for features of images'),
    (DINO_S16, 'vit, family dino, transformers names, for features of images')])
def test_towers_are_named_and_a_whole_clip_has_two_readings(tmp_path, capsys, section, told):
  """At the sizes of CLIP ViT-B/32 and DINO ViT-S/16."""
  family, section = families.TABLES[section['family']], registry.section(**section)
  write_header(tmp_path / 'model.safetensors', engine.names_and_shapes(
      family.rules, families.shapes_of(section)))
  (tmp_path / 'config.json').write_text(json.dumps(family.write_config(section)))
  assert cli.main(['convert', 'inspect', str(tmp_path)]) == 0
  said = capsys.readouterr().out
  assert said.splitlines()[0] == f'{tmp_path}: {told}' and 'every tensor fits' in said
