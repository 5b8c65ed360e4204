"""InternVL against transformers' class with random weights, through the project's own table."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers

from jaxgen.conversion.engine import from_torch
from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.folders import load_folder
from jaxgen.conversion.tables.internvl import FAMILY
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.encoders.generate import generate
from jaxgen.models.encoders.internvl import INTERNVL3_2B
from tests.models import parity
from tests.models.prompts import greedy_without_cache
from tests.models.prompts import logits_of
from tests.models.prompts import packed
from tests.models.prompts import padded
from tests.models.prompts import prompt_of

IMAGE_TOKEN = 5
VOCAB = 61


def their_model(**vision) -> transformers.InternVLForConditionalGeneration:
  """A tiny model whose every parameter matters: random norms, scales and positions too."""
  tie = vision.pop('tie', True)
  config = transformers.InternVLConfig(
      vision_config=dict(
          hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
          image_size=[28, 28], patch_size=[7, 7], attention_bias=True) | vision,
      text_config=dict(
          model_type='qwen2', vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3,
          num_attention_heads=4, num_key_value_heads=2, intermediate_size=48,
          rope_parameters=dict(rope_type='default', rope_theta=1e6), tie_word_embeddings=tie),
      image_token_id=IMAGE_TOKEN, image_seq_length=4, tie_word_embeddings=tie)
  torch.manual_seed(0)
  model = transformers.InternVLForConditionalGeneration(config).eval()
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      centre = 1.0 if 'norm' in name and name.endswith('weight') else 0.0
      parameter.copy_(centre + 0.2 * torch.randn_like(parameter))
  return model


def our_model(folder: str):
  """Module, parameters and section of a saved folder."""
  config, tensors = load_folder(folder)
  section = registry.section(**FAMILY.read_config(config, tensors, folder))
  module = registry.build(section, jnp.float32)
  params = from_torch(FAMILY.rules, tensors, registry.param_shapes(module), where=folder)
  return module, params, section


VARIANTS = {
    'tied': {},
    'untied, qk norm, no qkv bias': dict(tie=False, use_qk_norm=True, attention_bias=False),
}


@pytest.fixture(scope='module', params=list(VARIANTS))
def pair(request, tmp_path_factory):
  """``(their model, its folder, our module, our params, our section)``."""
  theirs = their_model(**VARIANTS[request.param])
  folder = str(tmp_path_factory.mktemp('internvl') / 'model')
  theirs.save_pretrained(folder)
  return theirs, folder, *our_model(folder)


@functools.partial(jax.jit, static_argnames=('module', 'method', 'extra'))
def call(module, params, method, *args, extra=()):
  return module.apply({'params': params}, *args, *extra, method=method)


def patches_of(pixels: np.ndarray, patch: int) -> np.ndarray:
  """f[n, 3, H, W] -> f[n, patches, 3 patch^2], colour slowest within a patch."""
  n, c, height, width = pixels.shape
  grid = pixels.reshape(n, c, height // patch, patch, width // patch, patch)
  return grid.transpose(0, 2, 4, 1, 3, 5).reshape(n, -1, c * patch**2)


def example(seed: int = 0, length: int = 14, images: int = 1):
  """``(token ids i64[1, S], pixels f[images, 3, 28, 28])``, image tokens after the second."""
  rng = np.random.default_rng(seed)
  tokens = rng.integers(6, VOCAB, (1, length))
  for image in range(images):
    tokens[0, 2 + 5 * image:6 + 5 * image] = IMAGE_TOKEN
  return tokens, rng.normal(size=(images, 3, 28, 28)).astype(np.float32)


def row(tokens: np.ndarray, pixels: np.ndarray):
  """One sample as a row of our own."""
  hit = tokens == IMAGE_TOKEN
  patches = patches_of(pixels, 7)
  images, count, dim = patches.shape
  return prompt_of(
      tokens, np.arange(tokens.shape[1])[None], patches.reshape(1, -1, dim),
      image_index=np.where(hit, np.cumsum(hit, axis=1) - 1, -1),
      patch_images=np.repeat(np.arange(1, images + 1), count)[None])


def their_states(model, tokens, pixels):
  """Every hidden state, and logits."""
  found = model(input_ids=tokens, pixel_values=pixels, output_hidden_states=True)
  return list(found.hidden_states), found.logits


def test_logits_and_every_hidden_state_equal_transformers(pair):
  theirs, _, module, params, _ = pair
  tokens, pixels = example(images=2)
  expected = parity.theirs(theirs, their_states, tokens, pixels)
  prompt = row(tokens, pixels)
  embeddings = call(module, params, 'embed_prompt', prompt)
  states = call(module, params, 'decode', embeddings, prompt.positions, prompt.segments,
                extra=(True,))
  logits = call(module, params, 'logits', states[-1])
  assert len(states) == 4 and np.abs(logits).max() > 0.1
  parity.assert_near((list(states), logits), expected)
  last = call(module, params, 'decode', embeddings, prompt.positions[..., 0], prompt.segments)
  assert np.array_equal(last, states[-1])
  whole = logits_of(module, params, prompt)
  assert np.array_equal(whole, logits)


def test_image_tokens_stand_where_image_index_says(pair):
  theirs, _, module, params, _ = pair
  tokens, pixels = example(images=2)
  expected = parity.theirs(theirs, lambda model, pixels: model.get_image_features(
      pixel_values=pixels).pooler_output.reshape(8, -1), pixels)
  prompt = row(tokens, pixels)
  images = call(module, params, 'image_tokens', prompt)
  parity.assert_near(images[0], expected)
  embeddings = call(module, params, 'embed', prompt.tokens, images, prompt.image_index)
  text = theirs.get_input_embeddings()(torch.tensor(tokens)).detach().numpy()
  hit = prompt.image_index >= 0
  assert np.array_equal(embeddings[hit], images[0])
  assert np.array_equal(embeddings[~hit], text[~hit])


def test_packed_samples_equal_separate_rows(pair):
  _, _, module, params, _ = pair
  samples = [row(*example(seed, length)) for seed, length in ((1, 9), (2, 12))]
  alone = [np.asarray(logits_of(module, params, sample)) for sample in samples]
  together = np.asarray(logits_of(module, params, packed(samples, 4, padding=3)))
  assert np.abs(together[:, :9] - alone[0]).max() < 1e-5
  assert np.abs(together[:, 9:21] - alone[1]).max() < 1e-5
  assert np.isfinite(together).all()


def test_round_trip_is_byte_equal(pair):
  _, folder, _, params, section = pair
  config, tensors = load_folder(folder)
  back = to_torch(FAMILY.rules, params)
  assert back.keys() == tensors.keys()
  for name, tensor in tensors.items():
    original = np.asarray(tensor)
    assert back[name].dtype == original.dtype
    assert back[name].tobytes() == original.tobytes(), name
  written = FAMILY.write_config(section)
  assert FAMILY.read_config(written, back, 'x') == FAMILY.read_config(config, tensors, 'x')
  assert registry.section(**FAMILY.read_config(written, back, 'x')) == section


def test_greedy_text_with_the_cache_equals_text_without(pair):
  _, _, module, params, _ = pair
  rows = [row(*example(3, 14)), row(*example(4, 9))]
  prompt = jax.tree.map(lambda *leaves: np.concatenate(leaves), rows[0], padded(rows[1], 5))
  text, _, lengths = generate(module, params, prompt, max_new=32, stop_ids=())
  text = np.asarray(text)
  assert lengths.tolist() == [32, 32]
  for number, sample in enumerate(rows):
    assert text[number].tolist() == greedy_without_cache(module, params, sample, 32)
  stop = int(text[0, 3])
  first = text[0].tolist().index(stop)
  stopped, _, lengths = generate(module, params, prompt, max_new=32, stop_ids=(VOCAB + 1, stop))
  assert stopped[0].tolist() == text[0, :first].tolist() + [stop] * (32 - first)
  assert lengths[0] == first + 1


@functools.partial(jax.jit, static_argnames='module')
def gradient(module, params, prompt):
  return jax.grad(lambda p: jnp.sum(jnp.square(module.apply({'params': p}, prompt))))(params)


@pytest.mark.parametrize('remat', ['dots', 'attention', 'full'])
def test_recomputation_changes_no_gradient(remat):
  text = dict(vocab=8, width=16, layers=2, heads=2, kv_heads=1, mlp=8)
  vision = dict(image_size=4, patch_size=2, width=8, layers=1, heads=2, mlp=8)
  ids = np.arange(6, dtype=np.int32)[None]
  index, patches = np.where(ids == 0, 0, -1), np.arange(48, dtype=np.float32).reshape(1, 4, 12)
  prompt = prompt_of(ids, ids, patches / 48, image_index=index)
  gradients = []
  for policy in ('none', remat):
    module = registry.build(registry.section(
        'internvl', text=text | dict(remat=policy), vision=vision | dict(remat=policy)),
        jnp.float32)
    params = nn.unbox(jax.jit(lambda rng: registry.init(module, rng))(jax.random.key(0)))['params']
    gradients.append(gradient(module, params, prompt))
  plain, recomputed = (trees.flatten(tree) for tree in gradients)
  for path, leaf in plain.items():
    np.testing.assert_allclose(recomputed[path], leaf, atol=1e-6, err_msg=path)
  for part in ('text/decoder', 'vision'):
    assert np.abs(plain[f'{part}/layers/attention/q/kernel']).max() > 1e-4


def test_every_parameter_has_logical_axes():
  module = registry.build(dict(
      family='internvl', text=dict(vocab=8, width=16, layers=1, heads=2, kv_heads=1, mlp=8),
      vision=dict(image_size=4, patch_size=2, width=8, layers=1, heads=2, mlp=8, qk_norm=True)),
      jnp.float32)
  boxed = jax.eval_shape(lambda rng: registry.init(module, rng), jax.random.key(0))['params']
  for path, leaf in trees.flatten(boxed).items():
    assert len(leaf.names) == len(leaf.value.shape) and all(leaf.names), path


@pytest.mark.parametrize('change, message', [
    (dict(vision=dict(image_size=30)), 'vision.image_size = 30: must be a multiple of patch_size'),
    (dict(vision=dict(image_size=42, patch_size=14)), 'must be a multiple of 2 patches'),
    (dict(vision=dict(heads=5)), 'vision.width = 1024: must be a multiple of heads 5'),
    (dict(text=dict(kv_heads=5)), 'heads = 12: must be a multiple of kv_heads 5'),
    (dict(text=dict(layers='3')), "config.model.mllm.text.layers = '3': must be int"),
    (dict(downsample=0.3), 'config.model.mllm.downsample = 0.3'),
])
def test_sizes_that_do_not_fit_are_named(change, message):
  section = {key: {**value, **change.get(key, {})} if isinstance(value, dict) else value
             for key, value in INTERNVL3_2B.items()}
  section |= {key: value for key, value in change.items() if not isinstance(value, dict)}
  with pytest.raises(UserError, match='config.model') as caught:
    registry.build(section, jnp.float32)
  assert message in str(caught.value)
