"""Qwen-Image and its Edit models against the pipelines of diffusers, with tiny random components.

The same words, images and noise, from the tokens to the pixels. Diffusers' constants of area are
divided by ``SHRUNK``, so that images of 64 x 64 pixels stand for those of 1024 x 1024.
"""

import copy
import math

import numpy as np
import pytest
import torch
import transformers
from diffusers import AutoencoderKLQwenImage
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers import QwenImageEditPipeline
from diffusers import QwenImageEditPlusPipeline
from diffusers import QwenImagePipeline
from diffusers import QwenImageTransformer2DModel
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus
from ml_collections import ConfigDict
from PIL import Image
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from configs.qwen_image import base
from configs.qwen_image import lora
from jaxgen.config import validate
from jaxgen.core.errors import UserError
from jaxgen.data.buckets import area_size
from jaxgen.data.buckets import bucket_set
from jaxgen.data.vision import fitted_size
from jaxgen.sampling.request import make_request
from jaxgen.systems.registry import make_system
from jaxgen.systems.registry import with_preset
from tests.data.test_templates import NAMES
from tests.data.test_templates import QWEN
from tests.data.test_templates import make_tokenizer
from tests.models import float64
from tests.systems import opened

SHRUNK, STEPS, SCALE = 256, 4, 4.0
PATCH, MERGE = 7, 2  # of the vision tower: tokens of 14 pixels, which divide no size of 32
PIXELS = dict(min_pixels=196, max_pixels=196 * 64)
NEGATIVE = '模糊 🙂'
LONG = 'a red circle left of two blue squares, ' * 40
PROMPTS = ('a red circle', '一个红色的圆形和两个方块', 'two 🐈‍⬛ under a 🌙, ünï', LONG)
SCHEDULER = dict(use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192,
                 shift_terminal=0.02)  # scheduler_config.json of every release


class StillProcessor(transformers.Qwen2VLProcessor):
  """Without the part for videos, which needs torchvision."""

  @classmethod
  def get_attributes(cls):
    return ['image_processor', 'tokenizer']


def language_model(tokenizer) -> transformers.Qwen2_5_VLForConditionalGeneration:
  ids = {f'{name}_token_id': tokenizer.convert_tokens_to_ids(f'<|{spelt}|>') for name, spelt in (
      ('image', 'image_pad'), ('vision_start', 'vision_start'), ('vision_end', 'vision_end'))}
  return transformers.Qwen2_5_VLForConditionalGeneration(transformers.Qwen2_5_VLConfig(
      **ids, video_token_id=0,
      vision_config=dict(depth=2, hidden_size=32, num_heads=2, intermediate_size=48,
                         patch_size=PATCH, spatial_merge_size=MERGE, window_size=28,
                         out_hidden_size=64, fullatt_block_indexes=[1]),
      text_config=dict(vocab_size=len(tokenizer), hidden_size=64, num_hidden_layers=2,
                       num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
                       rope_parameters=dict(rope_type='default', rope_theta=1e4,
                                            mrope_section=[2, 3, 3]))))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A saved pipeline: the components of all three."""
  place = tmp_path_factory.mktemp('qwen_image')
  _, tokenizer = make_tokenizer(place / 'spelt', NAMES['qwen_chat'], QWEN)
  rng = np.random.default_rng(0)
  QwenImagePipeline(
      scheduler=FlowMatchEulerDiscreteScheduler(**SCHEDULER), tokenizer=tokenizer,
      text_encoder=opened.randomized(language_model(tokenizer), 0),
      transformer=opened.randomized(QwenImageTransformer2DModel(
          in_channels=16, out_channels=4, num_layers=2, attention_head_dim=16,
          num_attention_heads=3, joint_attention_dim=64, axes_dims_rope=(4, 6, 6)), 1),
      vae=opened.randomized(AutoencoderKLQwenImage(
          base_dim=8, z_dim=4, dim_mult=[1, 1, 2], temperal_downsample=[False, True],
          latents_mean=rng.normal(size=4).tolist(),
          latents_std=rng.uniform(0.5, 2, 4).tolist()), 2)).save_pretrained(place)
  return place


@pytest.fixture(scope='module')
def plain(folder):
  """Diffusers' Qwen-Image, read from the folder."""
  return QwenImagePipeline.from_pretrained(folder)


@pytest.fixture
def areas(monkeypatch):
  """Sizes of given images as in diffusers, of an area that is ``SHRUNK`` times less."""
  for module in (pipeline_qwenimage_edit, pipeline_qwenimage_edit_plus):
    full = module.calculate_dimensions
    monkeypatch.setattr(module, 'calculate_dimensions',
                        lambda area, ratio, full=full: full(area / SHRUNK, ratio))


def editor(plain, kind):
  """An Edit pipeline of the components."""
  processor = StillProcessor(Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, **PIXELS),
                             plain.tokenizer)
  return kind(**plain.components, processor=processor)


def ours(folder, release: str) -> opened.Opened:
  """Our system with the components; the config of a release at the areas of the test."""
  config: ConfigDict = base.get_config(release)
  config.model.update(compute_dtype='float32', frozen_dtype='float32')
  config.data.tokenizer = str(folder / 'tokenizer')
  config.data.vision_area //= SHRUNK
  config.data.update(reference_pixels=(1024**2 // SHRUNK,), prompt_tokens=900, image_size=64,
                     buckets='', vision_pixels=tuple(PIXELS.values()))
  config = with_preset(config, 'released')
  config.sampling.update(steps=STEPS, negative_prompt=NEGATIVE)
  return opened.opened(config, folder, dict(mllm='text_encoder', denoiser='transformer',
                                            autoencoder='vae'))


def compare(own: opened.Opened, pipeline, cases) -> None:
  """Tokens, latents and pixels of requests; ``cases``: (text, images, size or None) of each."""
  pipeline.set_progress_bar_config(disable=True)
  requests = [make_request(own.config, text, source=images[:1], reference=images[1:], size=size,
                           seed=3, number=number)
              for number, (text, images, size) in enumerate(cases)]
  batch = own.batch(requests)
  for (text, images, size), found in zip(cases, own.draw(requests, batch), strict=True):
    read = []

    def tell(module, args, given):
      """Keeps the tokens, and says which of them are images, as diffusers 0.42 forgets to where
      transformers 5 asks (huggingface/diffusers#14194)."""
      read.append(given['input_ids'][0].tolist())
      return args, given | dict(
          mm_token_type_ids=(given['input_ids'] == module.config.image_token_id).int())

    hook = pipeline.text_encoder.register_forward_pre_hook(tell, with_kwargs=True)
    asked = dict(zip(('height', 'width'), size)) if size else {}
    if images:
      shown = [Image.fromarray(image) for image in images]
      asked['image'] = shown[0] if isinstance(pipeline, QwenImageEditPipeline) else shown
    with float64.our_time_frequencies():
      latents, pixels = opened.run(
          pipeline, prompt=text, negative_prompt=NEGATIVE, true_cfg_scale=SCALE, **asked,
          num_inference_steps=STEPS, latents=torch.tensor(found.noise)[None])
    hook.remove()
    assert_tokens(batch, read)
    opened.assert_same(found, latents[0], pixels)


def assert_tokens(batch, read: list[list[int]]) -> None:
  """The pipeline's prompts, up to 512 tokens behind the crop, are among ours."""
  prompt = batch.branches.batch.prompt
  own = [prompt.tokens[row][prompt.segments[row] == segment].tolist()
         for row in range(len(prompt.tokens)) for segment in range(1, prompt.segments.max() + 1)]
  assert len(read) == 2
  for tokens in read:
    assert tokens in own or tokens[:34 + base.WORDS] in own


def picture(seed: int, *size: int) -> np.ndarray:
  """Smooth enough that its latents are not noise."""
  rng = np.random.default_rng(seed)
  small = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
  return np.asarray(small.resize(size[::-1], Image.Resampling.BICUBIC))


def test_text_to_image(folder, plain):
  """English, Chinese, emoji, and more words than the denoiser is told."""
  compare(ours(folder, 'image'), plain, [(text, [], (64, 64)) for text in PROMPTS])


def test_editing(folder, plain, areas):
  """The image is stretched to 96 x 32 for the autoencoder, then to 98 x 28 for the tower."""
  cases = [(PROMPTS[1], [picture(0, 30, 60)], None), (PROMPTS[2], [picture(1, 90, 200)], None)]
  compare(ours(folder, 'edit'), editor(plain, QwenImageEditPipeline), cases)


def test_editing_with_several_images(folder, plain, areas):
  """Three pictures of other shapes, and one; the tower sees smaller ones than the autoencoder."""
  cases = [(PROMPTS[0], [picture(0, 30, 60), picture(1, 50, 40), picture(2, 64, 64)], (48, 64)),
           (PROMPTS[2], [picture(3, 80, 70)], (48, 64))]
  compare(ours(folder, 'edit_2509'), editor(plain, QwenImageEditPlusPipeline), cases)


def test_an_edit_is_as_large_as_its_image_is_stretched_to(areas):
  config = base.get_config('edit')
  for size in ((30, 60), (1000, 999), (4000, 700)):
    request = make_request(config, 'a cat', source=[picture(0, *size)])
    width, height = pipeline_qwenimage_edit.calculate_dimensions(
        SHRUNK * 1024**2, size[1] / size[0])[:2]
    assert request.sample.targets[0].size == (height, width)


@pytest.mark.parametrize('release', base.RELEASES)
def test_rows_hold_what_a_release_takes(release):
  """Every bucket, with the most images of any shape and 512 words."""
  config, (_, images, pixels, _) = base.get_config(release), base.RELEASES[release]
  validate(config)
  data, latent = config.data, make_system(config).layout.latent
  shapes = [(1000, 10 * percent) for percent in range(25, 401)]
  largest = max(math.prod(size) for size in (
      *bucket_set(data.buckets), *(area_size(shape, 1024**2) for shape in shapes)))
  assert data.visual_tokens * latent.factor**2 >= (1 + images) * largest
  if images:
    seen = max(math.prod(fitted_size(*area_size(shape, pixels), max_pixels=data.vision_pixels[1]))
               for shape in shapes) // 28**2
    assert data.patches >= 4 * images * seen
    assert data.prompt_tokens >= 64 + base.WORDS + images * (seen + 2)


@pytest.mark.parametrize('change, message', [
    (lambda config: config.model.denoiser.update(cond_dim=8), 'model.denoiser.cond_dim = 8'),
    (lambda config: config.model.denoiser.update(in_channels=8), 'model.denoiser.in_channels = 8'),
    (lambda config: config.data.update(image_size=100), 'data.image_size = 100'),
])
def test_what_does_not_fit_is_said(change, message):
  config = copy.deepcopy(base.get_config())
  change(config)
  with pytest.raises(UserError, match=message):
    make_system(config)


def test_an_unknown_release():
  with pytest.raises(UserError, match='image, edit, edit_2509, edit_2511'):
    base.get_config('edit_9')
