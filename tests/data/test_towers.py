"""Prompts for text towers: the same tokens as transformers' tokenizer gives the pipeline."""

import numpy as np
import pytest
import tokenizers
import transformers
from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video
from tokenizers import processors

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


def test_a_folder_without_a_tokenizer_is_named(tmp_path):
  with pytest.raises(UserError, match='config.data.tower_tokenizer'):
    load_tower_tokenizer(str(tmp_path), 12)
