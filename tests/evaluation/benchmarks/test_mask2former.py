"""The detector of the extra eval as a process: tiny Mask2Former and CLIP of transformers."""

import json
import string

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.detections import detected
from jaxgen.evaluation.benchmarks.masks import foregrounds
from jaxgen.evaluation.benchmarks.verdicts import COLORS
from jaxgen.evaluation.benchmarks.verdicts import OBJECTS


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """Folders of both with random weights; the detector is sure that all it sees are dogs."""
  torch.manual_seed(0)
  folder = tmp_path_factory.mktemp('models')
  swin = transformers.SwinConfig(
      image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
      window_size=4, out_features=['stage1', 'stage2', 'stage3', 'stage4'])
  config = transformers.Mask2FormerConfig(
      backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32,
      encoder_feedforward_dim=16, encoder_layers=1, decoder_layers=2, num_attention_heads=2,
      dim_feedforward=16, num_queries=3, num_labels=len(OBJECTS))
  model = transformers.Mask2FormerForUniversalSegmentation(config)
  torch.nn.init.zeros_(model.class_predictor.weight)
  torch.nn.init.zeros_(model.class_predictor.bias)
  model.class_predictor.bias.data[OBJECTS.index('dog')] = 9.0
  model.save_pretrained(folder / 'detector')
  transformers.Mask2FormerImageProcessorPil(size=dict(height=64, width=64)).save_pretrained(
      folder / 'detector')
  letters = ['<|startoftext|>', '<|endoftext|>', *string.printable[:94],
             *(f'{letter}</w>' for letter in string.printable[:94])]
  vocabulary = {token: number for number, token in enumerate(dict.fromkeys(letters))}
  tokenizer = transformers.CLIPTokenizer(vocab=vocabulary, merges=[])
  tower = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
  clip = transformers.CLIPModel(transformers.CLIPConfig(
      text_config=dict(tower, vocab_size=len(vocabulary), eos_token_id=1, bos_token_id=0),
      vision_config=dict(tower, image_size=32, patch_size=16), projection_dim=16))
  clip.save_pretrained(folder / 'clip')
  transformers.CLIPProcessor(
      image_processor=transformers.CLIPImageProcessorPil(
          size=dict(shortest_edge=32), crop_size=dict(height=32, width=32)),
      tokenizer=tokenizer).save_pretrained(folder / 'clip')
  return folder


@pytest.mark.slow
def test_dogs_are_found_and_named_by_colour(models, tmp_path):
  rng = np.random.default_rng(0)
  Image.fromarray(rng.integers(0, 256, (48, 64, 3), np.uint8)).save(tmp_path / '0.png')
  include = [{'class': 'dog', 'count': 1, 'color': 'red'}]
  item = Item('0', 'colors', 'a photo of a red dog', ('0.png',), facts=dict(include=include),
              beside={'metadata.jsonl': '{}'})
  command = f'mask2former --model={models}/detector --clip={models}/clip --device=cpu'
  scored = detected([item], str(tmp_path), command)
  line = json.loads((tmp_path / 'detections.jsonl').read_text())
  dogs = line['objects']['dog']
  assert line['objects'].keys() == {'dog'} and 1 <= len(dogs) <= 3
  for left, top, right, bottom, score in dogs:
    assert 0 <= left < right <= 64 and 0 <= top < bottom <= 48 and 0.3 < score <= 1
  assert dogs == sorted(dogs, key=lambda dog: -dog[4])
  color, = line['colors']['dog']
  assert color in COLORS and scored.scores == [{'0.png': float(color == 'red')}]


@pytest.mark.slow
def test_objects_are_foregrounds(models, tmp_path):
  """Masks alone need no CLIP; what is no dog becomes black."""
  rng = np.random.default_rng(0)
  pixels = rng.integers(1, 256, (48, 64, 3), np.uint8)
  Image.fromarray(pixels).save(tmp_path / '0.png')
  command = f'mask2former --model={models}/detector --clip=nowhere --device=cpu'
  (name, found), = foregrounds({'0.png': str(tmp_path / '0.png')}, str(tmp_path), command)
  mask = np.asarray(Image.open(next((tmp_path / 'masks').glob('*/0.png.png'))))
  assert name == '0.png' and mask.any() and mask.shape == (48, 64)
  np.testing.assert_array_equal(found, np.where(mask[..., None] > 0, pixels, 0))
