"""What the loop writes behind images, given or drawn, equals transformers' Qwen2.5-VL."""

import numpy as np
import pytest
import torch
import transformers

from jaxgen.conversion.engine import from_torch
from jaxgen.conversion.folders import load_folder
from jaxgen.conversion.tables.qwen2_5_vl import FAMILY
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.models import registry
from jaxgen.sampling import interleaved
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.interleaved import Options
from jaxgen.systems.registry import make_system
from tests.sampling.scripted import duetgen
from tests.sampling.scripted import picture
from tests.sampling.scripted import random_params

VOCAB, PATCH = 512, 4
OPTIONS = Options(images=1, max_tokens=12)


@pytest.fixture(scope='module')
def theirs(tmp_path_factory):
  """A tiny model, and its folder."""
  torch.manual_seed(0)
  model = transformers.Qwen2_5_VLForConditionalGeneration(transformers.Qwen2_5_VLConfig(
      vision_config=dict(
          depth=2, hidden_size=24, intermediate_size=32, num_heads=2, out_hidden_size=48,
          patch_size=PATCH, window_size=4 * PATCH, fullatt_block_indexes=[1]),
      text_config=dict(
          vocab_size=VOCAB, hidden_size=48, intermediate_size=32, num_hidden_layers=2,
          num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2,
          rope_parameters=dict(rope_type='default', rope_theta=1e4, mrope_section=[1, 2, 3])),
      image_token_id=5, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8,
      tie_word_embeddings=False)).eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      centre = 1.0 if 'norm' in name or 'ln_q' in name else 0.0
      parameter.copy_(centre + 0.3 * torch.randn_like(parameter))
  folder = str(tmp_path_factory.mktemp('qwen') / 'model')
  model.save_pretrained(folder)
  return model, folder


def greedy(model, prompt, patches, tokenizer) -> str:
  """What their model writes behind a prompt, up to the end or the beginning of an image."""
  grids = [tuple(patches.positions[patches.images == number].max(axis=0) + 1)
           for number in range(1, patches.images.max() + 1)]
  tokens = torch.tensor(prompt.tokens[None].astype(np.int64))
  with torch.no_grad():
    written = model.generate(
        input_ids=tokens, pixel_values=torch.tensor(patches.values),
        image_grid_thw=torch.tensor([(1, *grid) for grid in grids]),
        mm_token_type_ids=torch.tensor(prompt.image_index[None] >= 0).int(),
        attention_mask=torch.ones_like(tokens), do_sample=False, max_new_tokens=OPTIONS.max_tokens,
        eos_token_id=[tokenizer.bov, tokenizer.end], pad_token_id=tokenizer.pad)
  return tokenizer.decode(written[0, tokens.shape[1]:].tolist())


def test_text_behind_given_and_drawn_images_equals_transformers(theirs, tiny_tokenizer):
  model, folder = theirs
  config, tensors = load_folder(folder)
  ours = duetgen(tiny_tokenizer)
  section = registry.section(**FAMILY.read_config(config, tensors, folder))
  ours.model.mllm = section
  ours.model.connector.update(width=48)
  system = make_system(ours)
  params = random_params(ours)
  params['mllm'] = from_torch(FAMILY.rules, tensors, system.shapes()['mllm'], where=folder)
  maker = ExampleMaker.of(ours, system.layout)
  # Images of two sizes: the user's of four by six patches, the drawn one of four by four.
  asked = Dialogue.of(Sample('asked', (
      Part('user', text='look at this'), Part('source', image=picture(1, (16, 24))),
      Part('user', text='and make it blue'))))
  events = list(interleaved.converse(system, params, [asked], maker=maker, config=ours,
                                     options=OPTIONS))
  answer = events[-1].dialogue
  assert [event.part and event.part.is_image for event in events] == [False, True, False, None]
  texts = [part.text for part in answer.answer if not part.is_image]
  for images, text in enumerate(texts):
    read = maker(interleaved._request(answer, answer.until(images), ours, OPTIONS).sample)
    assert read.patches.images.max() == 1 + images
    assert text == greedy(model, read.prompt, read.patches, maker.tokenizer)
  assert len(set(texts)) == 2
