"""Pipelines of diffusers with random weights, saved as folders as releases have them."""

import json
import pathlib
from collections.abc import Iterable

import numpy as np
import torch
import transformers
from diffusers import AutoencoderKL
from diffusers import AutoencoderKLQwenImage
from diffusers import DiffusionPipeline
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers import FluxPipeline
from diffusers import FluxTransformer2DModel
from diffusers import QwenImagePipeline
from diffusers import QwenImageTransformer2DModel
from diffusers import ZImagePipeline
from diffusers import ZImageTransformer2DModel
from tokenizers import Tokenizer
from tokenizers import models
from tokenizers import pre_tokenizers
from tokenizers import trainers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from tests.data.test_templates import NAMES
from tests.data.test_templates import QWEN
from tests.data.test_templates import make_tokenizer

TEXTS = ('a red circle above a blue square', 'two cats asleep on a sofa, watercolour',
         'make the sky green and the grass purple')
# What a prompt may be: tokens of ours are compared with the pipeline's on each.
PROMPTS = {
    'English': "A photo of the neighbours' cat,  asleep on Café tables; 1,024 px!",
    'Chinese': '一只红色的猫坐在蓝色的沙发上，水彩画',
    'emoji': 'a happy 🐱 and a 👩‍🚀 on the 🌕',
    'empty': '',
    'too long': 'a very long story of a red circle ' * 80,
}


def save_clip_tokenizer(folder: pathlib.Path, texts: Iterable[str] = TEXTS) -> int:
  """A CLIP tokenizer in the files of the releases, which have no tokenizer.json; its length."""
  specials = ['<|startoftext|>', '<|endoftext|>']
  made = transformers.CLIPTokenizer(vocab={word: id_ for id_, word in enumerate(specials)},
                                    merges=[])
  backend = Tokenizer(models.BPE(end_of_word_suffix='</w>', unk_token=specials[1]))
  backend.normalizer = made.backend_tokenizer.normalizer
  backend.pre_tokenizer = made.backend_tokenizer.pre_tokenizer
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  backend.train_from_iterator(texts, trainers.BpeTrainer(
      vocab_size=700, end_of_word_suffix='</w>', initial_alphabet=letters, show_progress=False))
  spec = json.loads(backend.to_str())['model']
  words = [*spec['vocab'], *(f'{letter}</w>' for letter in letters), *specials]
  vocab = {word: id_ for id_, word in enumerate(dict.fromkeys(words))}
  folder.mkdir(parents=True)
  (folder / 'vocab.json').write_text(json.dumps(vocab))
  merges = ['#version: 0.2', *(' '.join(pair) for pair in spec['merges'])]
  (folder / 'merges.txt').write_text('\n'.join(merges) + '\n')
  (folder / 'tokenizer_config.json').write_text(json.dumps(dict(
      tokenizer_class='CLIPTokenizer', model_max_length=77, bos_token=specials[0],
      eos_token=specials[1], unk_token=specials[1], pad_token=specials[1])))
  return len(vocab)


def save_t5_tokenizer(folder: pathlib.Path, texts: Iterable[str] = TEXTS) -> int:
  """A T5 tokenizer; its length."""
  made = transformers.T5Tokenizer(extra_ids=2)
  backend = Tokenizer(models.Unigram())
  backend.pre_tokenizer = made.backend_tokenizer.pre_tokenizer
  specials = ['<pad>', '</s>', '<unk>']
  backend.train_from_iterator(texts, trainers.UnigramTrainer(
      vocab_size=120, special_tokens=specials, unk_token='<unk>', show_progress=False))
  vocab = [tuple(piece) for piece in json.loads(backend.to_str())['model']['vocab']]
  tokenizer = transformers.T5Tokenizer(vocab=vocab, extra_ids=2, model_max_length=512)
  tokenizer.save_pretrained(folder)
  return len(tokenizer)


def randomised(model: torch.nn.Module, scale: float = 0.1) -> torch.nn.Module:
  """The model with noise on every parameter, so that none of them is at zero or one."""
  with torch.no_grad():
    for parameter in model.parameters():
      parameter.add_(scale * torch.randn_like(parameter))
  return model.eval()


def save_flux(folder: pathlib.Path, kind: type[DiffusionPipeline] = FluxPipeline, *,
              distilled: bool = True, texts: Iterable[str] = TEXTS,
              channels: tuple[int, ...] = (8, 8), latent_channels: int = 4, **transformer) -> str:
  """A FLUX.1 pipeline; four pixels along a token with two ``channels`` of the autoencoder.

  Args:
    folder: to write.
    kind: class of the pipeline.
    distilled: from guidance, else schnell.
    texts: that its tokenizers are trained on.
    channels: of the autoencoder's blocks.
    latent_channels: of the autoencoder.
    **transformer: fields of the denoiser that are not the tiny ones.
  """
  clip_vocab = save_clip_tokenizer(folder / 'tokenizer', texts)
  t5_vocab = save_t5_tokenizer(folder / 'tokenizer_2', texts)
  tokenizer = transformers.CLIPTokenizer.from_pretrained(folder / 'tokenizer')
  torch.manual_seed(0)
  kind(
      scheduler=FlowMatchEulerDiscreteScheduler(**(dict(
          shift=3.0, use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15,
          base_image_seq_len=256, max_image_seq_len=4096) if distilled else dict(shift=1.0))),
      text_encoder=randomised(transformers.CLIPTextModel(transformers.CLIPTextConfig(
          vocab_size=clip_vocab, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
          num_attention_heads=2, bos_token_id=tokenizer.bos_token_id,
          eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id))),
      tokenizer=tokenizer,
      text_encoder_2=randomised(transformers.T5EncoderModel(transformers.T5Config(
          vocab_size=t5_vocab, d_model=32, d_kv=6, d_ff=48, num_layers=2, num_heads=4,
          feed_forward_proj='gated-gelu'))),
      tokenizer_2=transformers.T5Tokenizer.from_pretrained(folder / 'tokenizer_2'),
      transformer=randomised(FluxTransformer2DModel(**dict(
          in_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
          num_attention_heads=2, joint_attention_dim=32, pooled_projection_dim=16,
          guidance_embeds=distilled, axes_dims_rope=(4, 6, 6)) | transformer)),
      vae=randomised(AutoencoderKL(
          latent_channels=latent_channels, block_out_channels=channels, layers_per_block=1, norm_num_groups=4,
          down_block_types=['DownEncoderBlock2D'] * len(channels),
          up_block_types=['UpDecoderBlock2D'] * len(channels),
          scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
          use_post_quant_conv=False)),
  ).save_pretrained(folder)
  (folder / 'tokenizer' / 'tokenizer.json').unlink()
  return str(folder)


PATCH, MERGE = 7, 2  # of Qwen's vision tower: image tokens of 14 pixels, which divide no size of 32
# What Qwen3 is published with, as far as one turn of the user goes.
QWEN3 = ("{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + "
         "'<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}"
         "{{ '<|im_start|>assistant\n' }}{% if enable_thinking is defined and enable_thinking is "
         "false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}")


class StillProcessor(transformers.Qwen2VLProcessor):
  """Without the part for videos, which needs torchvision."""

  @classmethod
  def get_attributes(cls):
    return ['image_processor', 'tokenizer']


def save_qwen_image(folder: pathlib.Path, kind: type[DiffusionPipeline] = QwenImagePipeline) -> str:
  """A Qwen-Image pipeline, or one of its editors, eight pixels along a token."""
  _, tokenizer = make_tokenizer(folder / 'made', NAMES['qwen_chat'], QWEN)
  torch.manual_seed(0)
  values = np.random.default_rng(0)
  parts = dict(
      scheduler=FlowMatchEulerDiscreteScheduler(
          use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192,
          shift_terminal=0.02),
      tokenizer=tokenizer, text_encoder=randomised(_qwen2_5_vl(tokenizer)),
      transformer=randomised(QwenImageTransformer2DModel(
          in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
          num_attention_heads=3, joint_attention_dim=64, axes_dims_rope=(4, 6, 6))),
      vae=randomised(AutoencoderKLQwenImage(
          base_dim=8, z_dim=4, dim_mult=[1, 1, 2], temperal_downsample=[False, True],
          latents_mean=values.normal(size=4).tolist(),
          latents_std=values.uniform(0.5, 2, 4).tolist())))
  if kind is not QwenImagePipeline:
    parts['processor'] = StillProcessor(Qwen2VLImageProcessorPil(
        patch_size=PATCH, merge_size=MERGE, min_pixels=196, max_pixels=100 * 196), tokenizer)
  kind(**parts).save_pretrained(folder)
  return str(folder)


def _qwen2_5_vl(tokenizer) -> transformers.Qwen2_5_VLForConditionalGeneration:
  ids = {f'{name}_token_id': tokenizer.convert_tokens_to_ids(f'<|{spelt}|>') for name, spelt in (
      ('image', 'image_pad'), ('vision_start', 'vision_start'), ('vision_end', 'vision_end'))}
  return transformers.Qwen2_5_VLForConditionalGeneration(transformers.Qwen2_5_VLConfig(
      **ids, video_token_id=0,
      vision_config=dict(depth=2, hidden_size=32, num_heads=2, intermediate_size=48,
                         patch_size=PATCH, spatial_merge_size=MERGE, window_size=4 * PATCH,
                         out_hidden_size=64, fullatt_block_indexes=[1]),
      text_config=dict(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
                       rope_parameters=dict(rope_type='default', rope_theta=1e4,
                                            mrope_section=[2, 3, 3]))))


def save_z_image(folder: pathlib.Path) -> str:
  """A Z-Image pipeline, four pixels along a token."""
  _, tokenizer = make_tokenizer(folder / 'made', NAMES['qwen_chat'], QWEN3)
  torch.manual_seed(0)
  ZImagePipeline(
      scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), tokenizer=tokenizer,
      text_encoder=randomised(transformers.Qwen3Model(transformers.Qwen3Config(
          vocab_size=len(tokenizer), hidden_size=32, intermediate_size=48, num_hidden_layers=3,
          num_attention_heads=4, num_key_value_heads=2, head_dim=16))),
      transformer=randomised(ZImageTransformer2DModel(
          in_channels=4, dim=48, n_layers=2, n_refiner_layers=1, n_heads=3, n_kv_heads=3,
          cap_feat_dim=32, axes_dims=[4, 6, 6])),
      vae=randomised(AutoencoderKL(
          latent_channels=4, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
          down_block_types=['DownEncoderBlock2D'] * 2, up_block_types=['UpDecoderBlock2D'] * 2,
          scaling_factor=0.3611, shift_factor=0.1159, use_quant_conv=False,
          use_post_quant_conv=False))).save_pretrained(folder)
  return str(folder)
