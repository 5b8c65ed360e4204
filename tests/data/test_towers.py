"""Prompts for text towers: the same tokens as transformers' tokenizer gives the pipeline."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch
import transformers
from diffusers import HunyuanVideoPipeline
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video
from tokenizers import processors

from jaxgen.conversion import load_pretrained
from jaxgen.core.errors import UserError
from jaxgen.data.tokenizer import END
from jaxgen.data.tokenizer import IMAGE_START
from jaxgen.data.tokenizer import PAD
from jaxgen.data.towers import HUNYUAN_VIDEO
from jaxgen.data.towers import PLAIN
from jaxgen.data.towers import Template
from jaxgen.data.towers import load_tower_tokenizer

SHORT = Template('a photo of {}', 4)
PROMPTS = ['a red circle', '', 'a blue square and a green triangle and a red circle and a star']


@pytest.fixture(scope='module')
def tower_folder(tokenizer, tmp_path_factory):
  """A tokenizer that puts a start token before every text, as Llama's does."""
  path = tmp_path_factory.mktemp('tower')
  backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
  backend.post_processor = processors.TemplateProcessing(
      single=f'{IMAGE_START} $A', special_tokens=[(IMAGE_START, tokenizer.image_start)])
  fast = transformers.PreTrainedTokenizerFast(
      tokenizer_object=backend, pad_token=PAD, eos_token=END)
  fast.save_pretrained(str(path))
  return str(path)


@pytest.mark.parametrize('template', [PLAIN, SHORT])
def test_rows_equal_transformers(tower_folder, template):
  tokens, segments = load_tower_tokenizer(tower_folder, 12, template).rows(PROMPTS)
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tower_folder)
  expected = theirs([template.text.format(prompt) for prompt in PROMPTS], padding='max_length',
                    truncation=True, max_length=12 + template.crop)
  assert tokens.shape == (3, 12 + template.crop) and tokens.dtype == np.int32
  assert tokens.tolist() == expected['input_ids']
  assert segments.tolist() == expected['attention_mask']
  assert segments[2].all() and not segments[1].all()


def test_what_stands_before_the_prompt_is_cropped_whole(tower_folder):
  tower = load_tower_tokenizer(tower_folder, 12, SHORT)
  tokens, _ = tower.rows(PROMPTS)
  assert (tokens[:, :SHORT.crop] == tokens[0, :SHORT.crop]).all()
  assert tower.backend.decode(tokens[0, SHORT.crop:]).strip() == PROMPTS[0]


def test_the_template_of_hunyuan_video_is_that_of_diffusers():
  theirs = pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE
  assert HUNYUAN_VIDEO == Template(theirs['template'], theirs['crop_start'])


def test_states_of_prompts_are_those_of_the_pipeline(tower_folder, tmp_path):
  """The template, padding on the right, the third state from the end, the crop: all at once."""
  torch.manual_seed(0)
  tower = transformers.LlamaModel(transformers.LlamaConfig(
      vocab_size=600, hidden_size=16, intermediate_size=20, num_hidden_layers=4,
      num_attention_heads=2, num_key_value_heads=1, initializer_range=0.3)).eval()
  tower.save_pretrained(str(tmp_path))
  length = 512  # this tokenizer spells most words of the template
  pipeline = HunyuanVideoPipeline(
      tower, transformers.PreTrainedTokenizerFast.from_pretrained(tower_folder),
      transformer=None, vae=None, scheduler=None, text_encoder_2=None, tokenizer_2=None)
  with torch.no_grad():
    expected, _, mask = pipeline.encode_prompt(
        PROMPTS, pooled_prompt_embeds=torch.zeros(3, 1), max_sequence_length=length, device='cpu')

  module, params = load_pretrained(str(tmp_path))
  tokens, segments = load_tower_tokenizer(tower_folder, length, HUNYUAN_VIDEO).rows(PROMPTS)
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

  @jax.jit
  def states_of(params):
    def call(method, *args):
      return module.apply({'params': params}, *args, method=method)

    return call('decode', call('embed', tokens), positions, segments, False, 2)

  crop = HUNYUAN_VIDEO.crop
  states, segments = np.asarray(states_of(params))[:, crop:], segments[:, crop:]
  assert segments.tolist() == mask.tolist()
  assert 100 < segments.sum(axis=1).min() < segments.sum(axis=1).max() < length
  valid = segments == 1
  np.testing.assert_allclose(states[valid], expected.numpy()[valid], atol=1e-4)
  first, second = (expected.numpy()[row, segments[row].sum() - 1] for row in (0, 2))
  assert np.abs(first - second).max() > 0.1  # the prompts matter


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
  with pytest.raises(UserError, match='config.data.tower_tokenizer'):
    load_tower_tokenizer(str(tmp_path), 12)
