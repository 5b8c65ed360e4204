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
from jaxgen.core.types import Text
from jaxgen.data.dialects import DIALECTS
from jaxgen.data.tokenizer import END
from jaxgen.data.tokenizer import IMAGE_START
from jaxgen.data.tokenizer import PAD
from jaxgen.data.towers import load_tower_tokenizer

PROMPTS = ['a red circle', '', 'a blue square and a green triangle and a red circle and a star']
HUNYUAN = DIALECTS['hunyuan_video']
TEMPLATE = pipeline_hunyuan_video.DEFAULT_PROMPT_TEMPLATE
NAMES = ['<|start_header_id|>', '<|end_header_id|>', '<|eot_id|>']


@pytest.fixture(scope='module')
def tower_folder(tokenizer, tmp_path_factory):
  """A tokenizer that puts a start token before every text, as Llama's does."""
  path = tmp_path_factory.mktemp('tower')
  backend = tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())
  backend.add_special_tokens(NAMES)
  backend.post_processor = processors.TemplateProcessing(
      single=f'{IMAGE_START} $A', special_tokens=[(IMAGE_START, tokenizer.image_start)])
  fast = transformers.PreTrainedTokenizerFast(
      tokenizer_object=backend, pad_token=PAD, eos_token=END)
  fast.save_pretrained(str(path))
  return str(path)


def rows(tower):
  """Tokens, mask and what is shown of all the prompts."""
  found = [tower.tokens(prompt) for prompt in PROMPTS]
  return tuple(np.stack([getattr(one, name) for one in found])
               for name in ('tokens', 'mask', 'shown'))


@pytest.mark.parametrize('name', ['llama', 'clip', 't5'])
def test_rows_equal_transformers(tower_folder, name):
  tokens, mask, shown = rows(load_tower_tokenizer(tower_folder, Text(name, 12)))
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tower_folder)
  expected = theirs(PROMPTS, padding='max_length', truncation=True, max_length=12)
  assert tokens.shape == (3, 12) and tokens.dtype == np.int32 and mask.dtype == bool
  assert tokens.tolist() == expected['input_ids']
  words = np.array(expected['attention_mask']) == 1
  assert words[2].all() and not words[1].all()
  if name == 't5':  # which reads its padding
    words[:] = True
  assert mask.tolist() == shown.tolist() == words.tolist()


@pytest.mark.parametrize('length', [40, 400, 512])
def test_the_dialect_of_hunyuan_video_is_that_of_diffusers(tower_folder, length):
  """Cut behind the template, within it and not at all."""
  tokens, mask, shown = rows(load_tower_tokenizer(tower_folder, Text('hunyuan_video', length)))
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tower_folder)
  crop = TEMPLATE['crop_start']
  expected = theirs([TEMPLATE['template'].format(prompt) for prompt in PROMPTS],
                    padding='max_length', truncation=True, max_length=length + crop)
  assert tokens.tolist() == expected['input_ids']
  assert mask.tolist() == (np.array(expected['attention_mask']) == 1).tolist()
  assert HUNYUAN.crop == crop and not shown[:, :crop].any()
  assert (shown[:, crop:] == mask[:, crop:]).all()


def test_end_tokens_stay_where_a_prompt_is_cut(tower_folder, tokenizer, tmp_path):
  fast = transformers.PreTrainedTokenizerFast.from_pretrained(tower_folder)
  backend = tokenizers.Tokenizer.from_str(fast.backend_tokenizer.to_str())
  backend.post_processor = processors.TemplateProcessing(
      single=f'{IMAGE_START} $A {END}',
      special_tokens=[(IMAGE_START, tokenizer.image_start), (END, tokenizer.end)])
  transformers.PreTrainedTokenizerFast(
      tokenizer_object=backend, pad_token=PAD, eos_token=END).save_pretrained(str(tmp_path))
  tokens, mask, _ = rows(load_tower_tokenizer(str(tmp_path), Text('clip', 8)))
  theirs = transformers.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
  expected = theirs(PROMPTS, padding='max_length', truncation=True, max_length=8)
  assert tokens.tolist() == expected['input_ids'] and tokens[2, -1] == tokenizer.end
  assert mask.sum(axis=1).tolist() == np.sum(expected['attention_mask'], axis=1).tolist()


def test_specials_in_a_prompt_are_text(tower_folder):
  tower = load_tower_tokenizer(tower_folder, Text('hunyuan_video', 512))
  special = [tower.tokenizer.backend.token_to_id(name) for name in NAMES]
  ids = tower.tokens('a <|eot_id|> cat').tokens.tolist()
  empty = tower.tokens('').tokens.tolist()
  assert [ids.count(name) for name in special] == [empty.count(name) for name in special]


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
  tower = load_tower_tokenizer(tower_folder, Text('hunyuan_video', length))
  tokens, segments, shown = rows(tower)
  segments = segments.astype(np.int32)
  positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

  @jax.jit
  def states_of(params):
    def call(method, *args):
      return module.apply({'params': params}, *args, method=method)

    return call('decode', call('embed', tokens), positions, segments, False, 2)

  states, segments = (np.asarray(states_of(params))[:, HUNYUAN.crop:],
                      shown[:, HUNYUAN.crop:].astype(np.int32))
  assert segments.tolist() == mask.tolist()
  assert 100 < segments.sum(axis=1).min() < segments.sum(axis=1).max() < length
  valid = segments == 1
  np.testing.assert_allclose(states[valid], expected.numpy()[valid], atol=1e-4)
  first, second = (expected.numpy()[row, segments[row].sum() - 1] for row in (0, 2))
  assert np.abs(first - second).max() > 0.1  # the prompts matter


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
  with pytest.raises(UserError, match='config.data.tower_tokenizer'):
    load_tower_tokenizer(str(tmp_path), Text('llama', 12))
