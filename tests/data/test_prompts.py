"""Prompts: golden strings, the caption's loss, and the encoder that sampling uses."""

import numpy as np
import pytest

from jaxgen.config import source
from jaxgen.core.errors import UserError
from jaxgen.data.prompts import PromptWriter
from jaxgen.data.prompts import encode_prompts


@pytest.fixture
def data(make_config):
  return make_config({'a': source('shapes', 'image'), 'b': source('shapes', 'pair')}).data


@pytest.fixture
def writer(tokenizer, data):
  return PromptWriter(tokenizer, 3, data)


def spelt(tokenizer, prompt):
  return tokenizer.backend.decode(prompt.tokens.tolist(), skip_special_tokens=False)


def test_golden_strings(tokenizer, writer):
  image = '<img><IMG_CONTEXT><IMG_CONTEXT><IMG_CONTEXT></img>'
  assert (spelt(tokenizer, writer.reconstruction('x'))
          == f'Generate an image that is identical to the reference image:{image}')
  assert spelt(tokenizer, writer.pair('a cat', 'x')) == 'Generate an image: a cat'
  assert spelt(tokenizer, writer.empty()) == 'Generate an image.'
  assert (spelt(tokenizer, writer.caption('a cat', 'x'))
          == f'{image}Describe the image: a cat<|im_end|>')


def test_image_tokens_are_counted(writer):
  prompt = writer.reconstruction('x')
  assert prompt.image_index[prompt.image_index >= 0].tolist() == [0, 1, 2]
  assert (writer.pair('a cat', 'x').image_index == -1).all()


def test_loss_is_on_the_caption_and_the_end_only(tokenizer, writer):
  prompt = writer.caption('a cat', 'x')
  predicted = prompt.tokens[prompt.loss_mask == 1].tolist()
  assert predicted == tokenizer.encode(' a cat') + [tokenizer.end]
  assert writer.reconstruction('x').loss_mask.sum() == writer.pair('a', 'x').loss_mask.sum() == 0


def test_braces_in_a_caption_are_text(tokenizer, writer):
  assert spelt(tokenizer, writer.pair('{0} {caption}', 'x')) == 'Generate an image: {0} {caption}'


def test_the_image_token_cannot_be_smuggled_in(writer):
  with pytest.raises(UserError, match='^f.jsonl:3.*spells the token'):
    writer.pair('a <IMG_CONTEXT> cat', 'f.jsonl:3')


def test_too_long_names_sample_length_limit_and_fix(writer):
  with pytest.raises(UserError, match=r'^f\.jsonl:3: the prompt has \d{3} tokens, more than '
                                      'config.data.prompt_tokens = 40; shorten'):
    writer.pair('xyz ' * 60, 'f.jsonl:3')


def test_encode_prompts(tokenizer, writer, data, layout):
  prompt = encode_prompts(['a red circle', None], tokenizer, layout, data)
  assert prompt.tokens.shape == (2, 40) and prompt.patches.shape == (2, 4, 48)
  for row, expected in enumerate((writer.pair('a red circle', ''), writer.empty())):
    length = len(expected.tokens)
    np.testing.assert_array_equal(prompt.tokens[row, :length], expected.tokens)
    assert (prompt.tokens[row, length:] == tokenizer.pad).all()
    assert (prompt.segments[row] == (np.arange(40) < length)).all()
  assert not prompt.patch_segments.any() and not prompt.loss_mask.any()
  with pytest.raises(UserError, match="^prompt 'y y .*has .* tokens"):
    encode_prompts(['y ' * 80], tokenizer, layout, data)
