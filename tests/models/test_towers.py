"""Feature towers against transformers' classes: CLIP, SigLIP, DINO (ViT) and DINOv2."""

import functools

import jax
import numpy as np
import pytest
import torch
import transformers

from jaxgen.conversion import load_pretrained
from jaxgen.models.encoders.vision import cubic_weights
from jaxgen.models.registry import TOWER
from tests.models import parity

VOCAB = 61
SIZES = dict(hidden_size=24, intermediate_size=32, num_hidden_layers=3, num_attention_heads=3)
IMAGES = dict(image_size=32, patch_size=8)
TEXTS = dict(SIZES, vocab_size=VOCAB, max_position_embeddings=12, bos_token_id=0, eos_token_id=1)
MODELS = {
    'clip': lambda: transformers.CLIPModel(transformers.CLIPConfig(
        text_config=TEXTS, vision_config=dict(SIZES, **IMAGES), projection_dim=20)),
    'siglip': lambda: transformers.SiglipModel(transformers.SiglipConfig(
        text_config=TEXTS, vision_config=dict(SIZES, **IMAGES))),
    'dino': lambda: transformers.ViTModel(transformers.ViTConfig(**SIZES, **IMAGES)),
    'dinov2': lambda: transformers.Dinov2Model(transformers.Dinov2Config(
        hidden_size=24, mlp_ratio=2, num_hidden_layers=3, num_attention_heads=3, **IMAGES)),
}


@pytest.fixture(scope='module', params=list(MODELS))
def tower(request, tmp_path_factory):
  """``(family, their model, our module, our params)``, every parameter of weight."""
  torch.manual_seed(0)
  theirs = MODELS[request.param]().eval()
  with torch.no_grad():
    for name, parameter in theirs.named_parameters():
      centre = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
      parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
  folder = str(tmp_path_factory.mktemp('towers') / request.param)
  theirs.save_pretrained(folder)
  return request.param, theirs, *load_pretrained(folder, group=TOWER)


@functools.partial(jax.jit, static_argnames=('module', 'method'))
def call(module, params, *args, method='__call__'):
  return module.apply({'params': params}, *args, method=method)


def image_vectors(model, pixels):
  """Of an image what its scores compare: the projected vector, or that of the class token."""
  pixels = pixels.permute(0, 3, 1, 2)
  if hasattr(model, 'get_image_features'):
    return model.get_image_features(pixel_values=pixels, interpolate_pos_encoding=True
                                    ).pooler_output
  wanted = {} if model.config.model_type == 'dinov2' else dict(interpolate_pos_encoding=True)
  return model(pixel_values=pixels, **wanted).last_hidden_state[:, 0]


@pytest.mark.parametrize('size', [(32, 32), (40, 24)])
def test_vectors_of_images_equal_transformers(tower, size):
  """At the size of the positions, and at another one, for which they are interpolated."""
  _, theirs, module, params = tower
  pixels = np.random.default_rng(0).normal(size=(2, *size, 3)).astype(np.float32)
  expected = parity.theirs(theirs, image_vectors, pixels)
  assert np.abs(expected.exact).mean() > 0.1
  ours = call(module, params, pixels, method='image')
  parity.assert_near(ours, expected)
  assert np.abs(np.asarray(ours) - expected.exact).max() < 1e-4


def test_logits_of_images_and_texts_equal_transformers(tower):
  """CLIP's vector is that of the end token, SigLIP's that of the last one, be it padding."""
  family, theirs, module, params = tower
  if family not in ('clip', 'siglip'):
    return
  rng = np.random.default_rng(1)
  pixels = rng.normal(size=(2, 32, 32, 3)).astype(np.float32)
  tokens = rng.integers(3, VOCAB, (3, 12)).astype(np.int32)
  for row, end in enumerate((4, 11, 1)):
    tokens[row, end:] = 1

  def logits(model, pixels, tokens):
    return model(pixel_values=pixels.permute(0, 3, 1, 2), input_ids=tokens).logits_per_image

  expected = parity.theirs(theirs, logits, pixels, tokens)
  parity.assert_near(call(module, params, pixels, tokens), expected)


def test_every_parameter_has_logical_axes(tower):
  _, _, module, _ = tower
  boxed = jax.eval_shape(lambda key: module.init(key, *module.example()), jax.random.key(0))
  for leaf in jax.tree.leaves(boxed, is_leaf=lambda leaf: hasattr(leaf, 'names')):
    names = getattr(leaf, 'names', ())
    assert len(names) == len(getattr(leaf, 'value', leaf).shape) and all(names)


@pytest.mark.parametrize('old, new', [(4, 7), (7, 3), (5, 5)])
def test_positions_are_interpolated_as_torch_does(old, new):
  values = torch.eye(old, dtype=torch.float64)[None, :, :, None]
  expected = torch.nn.functional.interpolate(values, size=(new, 1), mode='bicubic')[0, :, :, 0].T
  np.testing.assert_allclose(cubic_weights(old, new), expected, atol=1e-6)
