"""Feature towers against transformers' classes: CLIP, SigLIP, SigLIP 2 NaFlex, DINO (ViT), DINOv2
with and without registers."""

import functools

import jax
import numpy as np
import pytest
import torch
import transformers

from jaxgen.conversion import load_pretrained
from jaxgen.models.encoders.image_tower import Patches
from jaxgen.models.encoders.vision import antialiased_linear_weights
from jaxgen.models.encoders.vision import RESIZES
from jaxgen.models.registry import TOWER
from tests.models import parity

VOCAB = 61
SIZES = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=3)
IMAGES = dict(image_size=32, patch_size=8)
TEXTS = dict(SIZES, vocab_size=VOCAB, max_position_embeddings=12, bos_token_id=0, eos_token_id=1)
DINOV2 = dict(hidden_size=24, mlp_ratio=2, num_hidden_layers=3, num_attention_heads=3, **IMAGES)
MODELS = {
    'clip': lambda: transformers.CLIPModel(transformers.CLIPConfig(
        text_config=TEXTS, vision_config=dict(SIZES, **IMAGES), projection_dim=20)),
    'siglip': lambda: transformers.SiglipModel(transformers.SiglipConfig(
        text_config=TEXTS, vision_config=dict(SIZES, **IMAGES))),
    'siglip2': lambda: transformers.Siglip2Model(transformers.Siglip2Config(
        text_config=TEXTS, vision_config=dict(SIZES, patch_size=8, num_patches=16))),
    'dino': lambda: transformers.ViTModel(transformers.ViTConfig(**SIZES, **IMAGES)),
    'dinov2': lambda: transformers.Dinov2Model(transformers.Dinov2Config(**DINOV2)),
    'dinov2_registers': lambda: transformers.Dinov2WithRegistersModel(
        transformers.Dinov2WithRegistersConfig(**DINOV2, num_register_tokens=5)),
}


@pytest.fixture(scope='module', params=list(MODELS))
def tower(request, tmp_path_factory):
  """``(their model, our module, our params)``, every parameter of weight."""
  torch.manual_seed(0)
  theirs = MODELS[request.param]().eval()
  with torch.no_grad():
    for name, parameter in theirs.named_parameters():
      centre = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
      parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
  folder = str(tmp_path_factory.mktemp('towers') / request.param)
  theirs.save_pretrained(folder)
  return theirs, *load_pretrained(folder, group=TOWER)


@functools.partial(jax.jit, static_argnames=('module', 'method'))
def call(module, params, *args, method='__call__'):
  return module.apply({'params': params}, *args, method=method)


def images(module, size, rng):
  """Two images of a size, normalised; for a NaFlex the second is wide, and both are padded."""
  if not isinstance(module.example()[0], Patches):
    return rng.normal(size=(2, *size, 3)).astype(np.float32)
  grids = np.array([[size[0] // 8, size[1] // 8], [2, 9]], np.int32)
  return Patches(rng.normal(size=(2, 19, 192)).astype(np.float32), grids)


def read_images(pixels):
  """Arguments of a class."""
  if not isinstance(pixels, Patches):
    return dict(pixel_values=pixels.permute(0, 3, 1, 2))
  places = torch.arange(pixels.values.shape[1])
  return dict(pixel_values=pixels.values, spatial_shapes=pixels.grids,
              pixel_attention_mask=(places < pixels.grids.prod(1, keepdim=True)).int())


def image_vectors(model, pixels):
  """Of an image what its scores compare: the projected vector, or that of the class token."""
  given = read_images(pixels)
  if model.config.model_type == 'siglip2':
    return model.get_image_features(**given).pooler_output
  if hasattr(model, 'get_image_features'):
    return model.get_image_features(**given, interpolate_pos_encoding=True).pooler_output
  wanted = dict(interpolate_pos_encoding=True) if model.config.model_type == 'vit' else {}
  return model(**given, **wanted).last_hidden_state[:, 0]


@pytest.mark.parametrize('size', [(32, 32), (40, 16)])
def test_vectors_of_images_equal_transformers(tower, size):
  """At the size of the positions, and at another one, for which they are interpolated."""
  theirs, module, params = tower
  pixels = images(module, size, np.random.default_rng(0))
  expected = parity.theirs(theirs, image_vectors, pixels)
  assert np.abs(expected.exact).mean() > 0.1
  ours = call(module, params, pixels, method='image')
  parity.assert_near(ours, expected)
  assert np.abs(np.asarray(ours) - expected.exact).max() < 1e-4


def test_logits_of_images_and_texts_equal_transformers(tower):
  """CLIP's vector is that of the end token, SigLIP's that of the last one, be it padding."""
  theirs, module, params = tower
  if not hasattr(theirs, 'get_text_features'):
    return
  rng = np.random.default_rng(1)
  pixels = images(module, (32, 32), rng)
  tokens = rng.integers(3, VOCAB, (3, 12)).astype(np.int32)
  for row, end in enumerate((4, 11, 1)):
    tokens[row, end:] = 1

  def logits(model, pixels, tokens):
    return model(**read_images(pixels), input_ids=tokens).logits_per_image

  expected = parity.theirs(theirs, logits, pixels, tokens)
  parity.assert_near(call(module, params, pixels, tokens), expected)


def test_every_parameter_has_logical_axes(tower):
  _, module, _ = tower
  boxed = jax.eval_shape(lambda key: module.init(key, *module.example()), jax.random.key(0))
  for leaf in jax.tree.leaves(boxed, is_leaf=lambda leaf: hasattr(leaf, 'names')):
    names = getattr(leaf, 'names', ())
    assert len(names) == len(getattr(leaf, 'value', leaf).shape) and all(names)


@pytest.mark.parametrize('old, new', [(4, 7), (7, 3), (5, 5)])
@pytest.mark.parametrize('resize', [*RESIZES, 'antialiased_linear'])
def test_positions_are_interpolated_as_torch_does(resize, old, new):
  kind = 'bilinear' if resize.endswith('linear') else 'bicubic'
  expected = torch.nn.functional.interpolate(
      torch.eye(old, dtype=torch.float64)[None, None], size=(old, new), mode=kind,
      antialias=resize.startswith('antialiased'))[0, 0].T
  found = (antialiased_linear_weights(old, np.array(new), np.arange(new))
           if resize == 'antialiased_linear' else RESIZES[resize](old, new))
  np.testing.assert_allclose(found, expected, atol=1e-6)
