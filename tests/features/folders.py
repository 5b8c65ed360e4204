"""Folders of tiny towers as transformers saves them, with image processors and a tokenizer."""

import string

import torch
import transformers

SIZES = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
IMAGES = dict(image_size=16, patch_size=8)
TEXT_LENGTH = 40


def save_clip(folder: str) -> transformers.CLIPModel:
  """A CLIP that reads letters; its processor crops to 16 pixels."""
  letters = ['<|startoftext|>', '<|endoftext|>', *string.ascii_lowercase,
             *(f'{letter}</w>' for letter in string.ascii_lowercase)]
  tokenizer = transformers.CLIPTokenizer(
      vocab={token: number for number, token in enumerate(letters)}, merges=[])
  model = _random(transformers.CLIPModel(transformers.CLIPConfig(
      text_config=dict(SIZES, vocab_size=len(letters), eos_token_id=1, bos_token_id=0,
                       max_position_embeddings=TEXT_LENGTH),
      vision_config=dict(SIZES, **IMAGES), projection_dim=12)))
  model.save_pretrained(folder)
  transformers.CLIPProcessor(image_processor=transformers.CLIPImageProcessorPil(
      size=dict(shortest_edge=16), crop_size=dict(height=16, width=16)),
                             tokenizer=tokenizer).save_pretrained(folder)
  return model


def save_dino(folder: str) -> transformers.ViTModel:
  """A DINO, whose processor stretches to 16 x 16 pixels."""
  model = _random(transformers.ViTModel(transformers.ViTConfig(**SIZES, **IMAGES),
                                        add_pooling_layer=False))
  model.save_pretrained(folder)
  transformers.ViTImageProcessorPil(size=dict(height=16, width=16)).save_pretrained(folder)
  return model


def save_naflex(folder: str) -> transformers.Siglip2Model:
  """A SigLIP 2 NaFlex, whose processor makes at most 20 patches of an image."""
  sizes = dict(SIZES, layer_norm_eps=1e-6)
  model = _random(transformers.Siglip2Model(transformers.Siglip2Config(
      text_config=dict(sizes, vocab_size=9, max_position_embeddings=TEXT_LENGTH, bos_token_id=0,
                       eos_token_id=1),
      vision_config=dict(sizes, patch_size=8, num_patches=16))))
  model.save_pretrained(folder)
  transformers.Siglip2ImageProcessorPil(patch_size=8, max_num_patches=20).save_pretrained(folder)
  return model


def _random(model):
  torch.manual_seed(0)
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.copy_(0.3 * torch.randn_like(parameter))
  return model.eval()
