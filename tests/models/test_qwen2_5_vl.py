"""Qwen2.5-VL against transformers' class with random weights and images of two sizes."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from jaxgen.conversion.engine import from_torch
from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.folders import load_folder
from jaxgen.conversion.tables.qwen2_5_vl import FAMILY
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.core.types import Prompt
from jaxgen.models import registry
from jaxgen.models.encoders.generate import generate
from jaxgen.models.encoders.qwen2_5_vl import QWEN2_5_VL_7B
from tests.models import parity
from tests.models.prompts import greedy_without_cache
from tests.models.prompts import logits_of
from tests.models.prompts import packed
from tests.models.prompts import prompt_of

IMAGE, VOCAB, PATCH = 5, 61, 14
# Rows and columns of patches. With windows of 4 x 4 patches the first image has windows of four
# sizes, and the second one is smaller than a window in one direction.
GRIDS = ((6, 10), (2, 8))


def their_model(tie: bool) -> transformers.Qwen2_5_VLForConditionalGeneration:
  """A tiny model whose every parameter matters."""
  config = transformers.Qwen2_5_VLConfig(
      vision_config=dict(
          depth=3, hidden_size=32, intermediate_size=24, num_heads=2, out_hidden_size=48,
          window_size=4 * PATCH, fullatt_block_indexes=[1]),
      text_config=dict(
          vocab_size=VOCAB, hidden_size=48, intermediate_size=32, num_hidden_layers=3,
          num_attention_heads=4, num_key_value_heads=2, bos_token_id=1, eos_token_id=2,
          rope_parameters=dict(rope_type='default', rope_theta=1e6, mrope_section=[1, 2, 3])),
      image_token_id=IMAGE, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8,
      tie_word_embeddings=tie)
  torch.manual_seed(0)
  model = transformers.Qwen2_5_VLForConditionalGeneration(config).eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      centre = 1.0 if 'norm' in name or 'ln_q' in name else 0.0
      parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
  return model


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """``(their model, its folder, our module, our params, our section)``."""
  theirs = their_model(tie=False)
  folder = str(tmp_path_factory.mktemp('qwen') / 'model')
  theirs.save_pretrained(folder)
  config, tensors = load_folder(folder)
  section = registry.section(**FAMILY.read_config(config, tensors, folder))
  module = registry.build(section, jnp.float32)
  params = from_torch(FAMILY.rules, tensors, registry.param_shapes(module), where=folder)
  return theirs, folder, module, params, section


@functools.partial(jax.jit, static_argnames=('module', 'all_layers'))
def run(module, params, prompt, all_layers=False):
  """Image tokens (None without patches), states and logits of a prompt."""
  def call(method, *args):
    return module.apply({'params': params}, *args, method=method)

  images = call('image_tokens', prompt) if prompt.patches.size else None
  embeddings = call('embed_prompt', prompt)
  states = call('decode', embeddings, prompt.positions, prompt.segments, all_layers)
  return images, states, call('logits', states[-1] if all_layers else states)


def example(seed: int, grids=GRIDS, tail: int = 4):
  """``(token ids i64[1, S], patches f[P, Dp])``: text, image, text, image, text."""
  rng = np.random.default_rng(seed)

  def text(count):
    return rng.integers(9, VOCAB, count)

  parts = [text(3)]
  for rows, columns in grids:
    parts += [np.full(rows * columns // 4, IMAGE), text(tail)]
  patches = rng.normal(size=(sum(math.prod(grid) for grid in grids), 6 * PATCH**2))
  return np.concatenate(parts)[None], patches.astype(np.float32)


def patch_places(rows, columns):
  """i[rows * columns, 2]: (h, w) of patches, four of a token side by side."""
  h, w = np.mgrid[:rows, :columns].reshape(2, rows // 2, 2, columns // 2, 2).swapaxes(2, 3)
  return np.stack([h.ravel(), w.ravel()], axis=-1)


def row(theirs, tokens, patches, grids=GRIDS) -> Prompt:
  """One sample as a row of our own; its positions are those that transformers gives it."""
  is_image = tokens[0] == IMAGE
  positions, _ = theirs.model.get_rope_index(
      torch.tensor(tokens), torch.tensor(is_image[None]).int(),
      image_grid_thw=torch.tensor([(1, *grid) for grid in grids]))
  return prompt_of(
      tokens, np.moveaxis(positions.numpy(), 0, -1), patches[None],
      image_index=np.where(is_image, np.cumsum(is_image) - 1, -1)[None],
      patch_positions=np.concatenate([patch_places(*grid) for grid in grids])[None],
      patch_images=np.repeat(np.arange(1, len(grids) + 1), [math.prod(g) for g in grids])[None])


def call_theirs(model, tokens, patches, grids=GRIDS):
  return model(
      input_ids=tokens, pixel_values=patches,
      image_grid_thw=torch.tensor([(1, *grid) for grid in grids]),
      mm_token_type_ids=(tokens == IMAGE).int(), output_hidden_states=True)


def their_states(model, tokens, patches):
  """Every hidden state, and logits."""
  found = call_theirs(model, tokens, patches)
  return list(found.hidden_states), found.logits


def their_gradients(model, tokens, patches, target):
  """Logits, and gradients of their product with the target, under the names of the folder."""
  logits = call_theirs(model, tokens, patches, GRIDS[:1]).logits
  named = dict(model.named_parameters())
  gradients = torch.autograd.grad(torch.sum(logits * target), list(named.values()))
  return logits, {
      name.replace('model.visual', 'visual').replace('model.language_model', 'model'): gradient
      for name, gradient in zip(named, gradients, strict=True)}


def test_logits_and_every_hidden_state_equal_transformers(pair):
  theirs, _, module, params, _ = pair
  tokens, patches = example(0)
  images, states, logits = run(module, params, row(theirs, tokens, patches), all_layers=True)
  assert len(states) == 4 and np.abs(logits).max() > 0.1
  parity.assert_near((list(states), logits),
                     parity.theirs(theirs, their_states, tokens, patches))
  assert np.array_equal(images[0], states[0][tokens == IMAGE])


def test_text_without_images_equals_transformers(pair):
  theirs, _, module, params, _ = pair
  tokens = np.random.default_rng(4).integers(9, VOCAB, (1, 8))
  prompt = prompt_of(tokens, np.arange(8)[None], patch_dim=6 * PATCH**2)
  ours = logits_of(module, params, prompt)
  parity.assert_near(ours, parity.theirs(
      theirs, lambda model, tokens: model(input_ids=tokens).logits, tokens))
  # Text may have one axis of positions.
  one_axis = run(module, params, prompt.replace(positions=prompt.positions[..., 0]))[2]
  assert np.abs(ours - one_axis).max() < 1e-5


def test_gradients_equal_transformers_and_half_precision_is_near(pair):
  """With everything recomputed in the backward pass, through windows and whole images."""
  theirs, _, module, params, section = pair
  section = {**section, **{part: {**section[part], 'remat': 'full'} for part in ('vision', 'text')}}
  module = registry.build(section, jnp.float32)
  tokens, patches = example(0, grids=GRIDS[:1])
  prompt = row(theirs, tokens, patches, GRIDS[:1])
  target = np.random.default_rng(5).normal(size=(*tokens.shape, VOCAB)).astype(np.float32)

  def loss(params):
    logits = module.apply({'params': params}, prompt)
    return jnp.sum(logits * target), logits

  gradients, logits = jax.jit(jax.grad(loss, has_aux=True))(params)
  expected = parity.theirs(theirs, their_gradients, tokens, patches, target)
  parity.assert_near((logits, to_torch(FAMILY.rules, gradients)), expected, together=True)
  half = jax.jit(registry.build(section, jnp.bfloat16).apply)({'params': params}, prompt)
  assert half.dtype == jnp.float32
  exact = expected.exact[0]
  assert np.linalg.norm(half - exact) < 0.05 * np.linalg.norm(exact)


def test_windows_matter_and_images_do_not_see_each_other(pair):
  theirs, _, module, params, _ = pair
  tokens, patches = example(0)
  images = np.asarray(run(module, params, row(theirs, tokens, patches))[0][0])
  changed = patches.copy()
  changed[60:] += 1
  other = np.asarray(run(module, params, row(theirs, tokens, changed))[0][0])
  assert np.array_equal(images[:15], other[:15])
  assert np.abs(images[15:] - other[15:]).max() > 1e-2
  widened = registry.build(registry.section(**{
      **pair[4], 'vision': {**pair[4]['vision'], 'full_attention': (0, 1, 2)}}), jnp.float32)
  whole = np.asarray(run(widened, params, row(theirs, tokens, patches))[0][0])
  assert np.abs(images - whole).max() > 1e-2


def test_packed_samples_equal_separate_rows(pair):
  theirs, _, module, params, _ = pair
  grids = (GRIDS, GRIDS[:1])
  samples = [row(theirs, *example(seed, own), own) for seed, own in enumerate(grids, 1)]
  alone = [np.asarray(run(module, params, sample)[2][0]) for sample in samples]
  together = np.asarray(run(module, params, packed(samples, 4, padding=4))[2][0])
  ends = np.cumsum([len(logits) for logits in alone])
  assert np.abs(together[:ends[0]] - alone[0]).max() < 1e-5
  assert np.abs(together[ends[0]:ends[1]] - alone[1]).max() < 1e-5
  assert np.isfinite(together).all()


def test_greedy_text_with_the_cache_equals_text_without_and_transformers(pair):
  theirs, _, module, params, _ = pair
  tokens, patches = example(3)
  prompt = row(theirs, tokens, patches)
  text = np.asarray(generate(module, params, prompt, max_new=32, stop_ids=())[0])[0]
  assert text.tolist() == greedy_without_cache(module, params, prompt, 32)
  with torch.no_grad():
    expected = theirs.generate(
        input_ids=torch.tensor(tokens), pixel_values=torch.tensor(patches),
        image_grid_thw=torch.tensor([(1, *grid) for grid in GRIDS]),
        mm_token_type_ids=torch.tensor(tokens == IMAGE).int(),
        attention_mask=torch.ones(tokens.shape, dtype=torch.long), do_sample=False,
        max_new_tokens=32, min_new_tokens=32, eos_token_id=None, pad_token_id=0)
  assert text.tolist() == expected[0, tokens.shape[1]:].tolist()
  assert len(set(text.tolist())) > 3


@pytest.mark.parametrize('tie', [False, True])
def test_round_trip_is_byte_equal(pair, tie, tmp_path):
  _, folder, module, params, section = pair
  if tie:
    folder = str(tmp_path / 'tied')
    their_model(tie=True).save_pretrained(folder)
  config, tensors = load_folder(folder)
  read = FAMILY.read_config(config, tensors, folder)
  shapes = registry.param_shapes(registry.build(read, jnp.float32))
  back = to_torch(FAMILY.rules, from_torch(FAMILY.rules, tensors, shapes))
  assert back.keys() == tensors.keys() and ('lm_head.weight' in back) != tie
  for name, tensor in tensors.items():
    original = np.asarray(tensor)
    assert back[name].dtype == original.dtype
    assert back[name].tobytes() == original.tobytes(), name
  written = FAMILY.write_config(registry.section(**read))
  assert FAMILY.read_config(written, back, 'x') == read


def test_old_flat_configs_are_read():
  """Folders published before transformers 5."""
  flat = dict(
      model_type='qwen2_5_vl', hidden_size=48, intermediate_size=32, num_hidden_layers=3,
      num_attention_heads=4, num_key_value_heads=2, vocab_size=VOCAB, rope_theta=1e6,
      rms_norm_eps=1e-6, rope_scaling=dict(type='mrope', mrope_section=[1, 2, 3]),
      vision_config=dict(depth=3, hidden_size=32, intermediate_size=24, num_heads=2,
                         spatial_patch_size=14, fullatt_block_indexes=[1], window_size=112))
  section = registry.section(**FAMILY.read_config(flat, {'lm_head.weight'}, 'x'))
  assert section['text']['rope_sections'] == (1, 2, 3) and section['text']['width'] == 48
  assert not section['text']['tie_embeddings'] and section['vision']['patch_size'] == 14


def test_every_parameter_has_logical_axes(pair):
  boxed = jax.eval_shape(lambda rng: registry.init(pair[2], rng), jax.random.key(0))['params']
  for path, leaf in trees.flatten(boxed).items():
    assert len(leaf.names) == len(leaf.value.shape) and all(leaf.names), path


@pytest.mark.parametrize('part, change, message', [
    ('text', dict(rope_sections=()), 'text.rope_sections = (): must have three numbers'),
    ('text', dict(rope_sections=(1, 2, 3)), 'rope_sections = (1, 2, 3): must have the sum 64'),
    ('vision', dict(width=1288), 'vision.width = 1288: must be a multiple of 4 heads = 64'),
    ('vision', dict(window=100), 'vision.window = 100: must be a multiple of'),
    ('vision', dict(full_attention=(32,)), 'must name layers from 0 to 31'),
])
def test_sizes_that_do_not_fit_are_named(part, change, message):
  section = {**QWEN2_5_VL_7B, part: {**QWEN2_5_VL_7B[part], **change}}
  with pytest.raises(UserError) as caught:
    registry.build(section, jnp.float32)
  assert message in str(caught.value)
