"""Grounded-SAM of the extra eval as a process: tiny Grounding DINO and SAM of transformers."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from jaxgen.evaluation.benchmarks import grounded_sam
from jaxgen.evaluation.benchmarks import lines
from jaxgen.evaluation.benchmarks.masks import foregrounds

# The model knows the marks of a sentence by the numbers that BERT's vocabulary has for them.
MARKS = {0: '[PAD]', 100: '[UNK]', 101: '[CLS]', 102: '[SEP]', 103: '[MASK]', 1012: '.', 1029: '?'}
WORDS = ('person', 'animal', 'cartoon', 'character', 'red', 'dog')
SIDE = 64  # of what SAM reads


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  """Folders of both with random weights."""
  torch.manual_seed(0)
  folder = tmp_path_factory.mktemp('models')
  vocabulary = {MARKS.get(number, f'[unused{number}]'): number for number in range(1030)}
  vocabulary |= {word: 1030 + number for number, word in enumerate(WORDS)}
  tokenizer = transformers.BertTokenizer(vocab=vocabulary)
  swin = transformers.SwinConfig(
      image_size=64, patch_size=4, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2],
      window_size=4, out_features=['stage2', 'stage3', 'stage4'])
  text = transformers.BertConfig(
      vocab_size=len(vocabulary), hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
      intermediate_size=32)
  grounding = transformers.GroundingDinoForObjectDetection(transformers.GroundingDinoConfig(
      backbone_config=swin, text_config=text, d_model=32, num_queries=5, encoder_layers=1,
      decoder_layers=2, encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=32,
      decoder_ffn_dim=32, encoder_n_points=2, decoder_n_points=2))
  # Boxes of random weights are all alike.
  torch.nn.init.normal_(grounding.model.enc_output.weight)
  grounding.save_pretrained(folder / 'boxes')
  transformers.GroundingDinoProcessor(
      transformers.GroundingDinoImageProcessorPil(size=dict(shortest_edge=64, longest_edge=96)),
      tokenizer).save_pretrained(folder / 'boxes')
  decoder = dict(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
  transformers.SamModel(transformers.SamConfig(
      vision_config=dict(hidden_size=16, output_channels=32, num_hidden_layers=1,
                         num_attention_heads=2, image_size=SIDE, window_size=2,
                         global_attn_indexes=[0], num_pos_feats=16, mlp_dim=32,
                         initializer_range=0.2),
      prompt_encoder_config=dict(hidden_size=32, image_size=SIDE),
      mask_decoder_config=decoder, initializer_range=0.2)).save_pretrained(folder / 'sam')
  transformers.SamProcessor(transformers.SamImageProcessorPil(
      size=dict(longest_edge=SIDE), pad_size=dict(height=SIDE, width=SIDE))).save_pretrained(
          folder / 'sam')
  return folder


def draw(path, height=48, width=64):
  """A picture that lies on its side in its file."""
  pixels = np.random.default_rng(0).integers(1, 256, (height, width, 3), np.uint8)
  exif = Image.Exif()
  exif[0x0112] = 8  # 90 degrees to the left
  Image.fromarray(pixels).save(path, exif=exif)
  return np.rot90(pixels)


@pytest.mark.slow
def test_what_the_text_names_is_the_foreground(models, tmp_path):
  """The union of SAM's masks, asked for box by box; the file is read as it is shown."""
  pixels = draw(tmp_path / '0.png')
  command = f'grounded_sam --model={models}/boxes --sam={models}/sam --device=cpu'
  (name, found), = foregrounds({'0.png': str(tmp_path / '0.png')}, str(tmp_path),
                               f'{command} --box-threshold=0.6')
  image = Image.fromarray(pixels)
  boxes = grounded_sam.Boxes(str(models / 'boxes'), 'cpu', grounded_sam.TEXT, 0.6, 0.25)(image)
  assert len(boxes) == 4
  masks = grounded_sam.Masks(str(models / 'sam'), 'cpu')
  single = [masks(image, [box]) for box in boxes]
  whole = np.any(single, 0)
  assert name == '0.png' and all(0 < one.sum() < whole.sum() < whole.size for one in single)
  np.testing.assert_array_equal(found, np.where(whole[..., None], pixels, 0))


def test_boxes_are_those_above_the_thresholds(models, tmp_path):
  image, folder = Image.fromarray(draw(tmp_path / '0.png')), str(models / 'boxes')
  processor = transformers.GroundingDinoProcessor.from_pretrained(folder)
  model = transformers.GroundingDinoForObjectDetection.from_pretrained(folder)
  with torch.no_grad():
    outputs = model(**processor(image, 'red dog.', return_tensors='pt'))
  scores = outputs.logits[0].sigmoid()  # [5, 256], of [CLS] red dog . [SEP] and none
  x, y, width, height = outputs.pred_boxes[0].T
  sides = torch.stack([48 * (x - width / 2), 64 * (y - height / 2), 48 * (x + width / 2),
                       64 * (y + height / 2)], 1)
  best, words = scores.max(1).values, scores[:, 1:5].max(1).values
  between = float(best.sort().values[1:3].mean())
  named = float(words.sort().values[1:3].mean())
  for text, box_threshold, text_threshold in (
      ('red dog.', 0.0, 0.0), ('red dog.', between, 0.0), (' Red DOG', 0.0, named)):
    found = grounded_sam.Boxes(folder, 'cpu', text, box_threshold, text_threshold)(image)
    kept = sides[(best > box_threshold) & (words > text_threshold)]
    assert len(kept) == (5 if box_threshold == text_threshold == 0.0 else 3)
    np.testing.assert_allclose(found, kept, atol=1e-4)
  assert not grounded_sam.Boxes(folder, 'cpu', 'red dog.', 1.0, 0.0)(image)


def test_masks_are_those_of_the_authors_steps(models, tmp_path):
  """Boxes in pixels of the image, one mask for each, the logits enlarged and cut at 0."""
  image = Image.fromarray(draw(tmp_path / '0.png'))  # 48 x 64, which SAM reads at its own size
  box = [3.0, 5.0, 30.0, 50.0]
  sam = transformers.SamModel.from_pretrained(models / 'sam')
  processor = transformers.SamProcessor.from_pretrained(models / 'sam')
  with torch.no_grad():
    low = sam(processor(image, return_tensors='pt')['pixel_values'],
              input_boxes=torch.tensor([[box]]), multimask_output=False).pred_masks[0]
  large = torch.nn.functional.interpolate(low, (SIDE, SIDE), mode='bilinear')[0, 0]
  found = grounded_sam.Masks(str(models / 'sam'), 'cpu')(image, [box])
  np.testing.assert_array_equal(found, (large > 0).numpy()[:, :48])


def test_nothing_found_is_a_black_mask(models, tmp_path):
  path = str(tmp_path / '0.png')
  mask = grounded_sam.Masks(str(models / 'sam'), 'cpu')(Image.fromarray(draw(path)), [])
  request = dict(image=path, mask=str(tmp_path / 'mask.png'))
  assert lines.write_mask(request, mask) == request
  written = np.asarray(Image.open(request['mask']))
  assert written.shape == (64, 48) and not written.any()
