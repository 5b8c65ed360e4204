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
from jaxgen.core.types import Prompt
from jaxgen.models import registry
from jaxgen.models.encoders.generate import generate
from jaxgen.models.encoders.internvl import INTERNVL3_2B

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


def image_index(tokens: np.ndarray) -> np.ndarray:
  hit = tokens == IMAGE_TOKEN
  return np.where(hit, np.cumsum(hit, axis=1) - 1, -1).astype(np.int32)


def row(tokens: np.ndarray, pixels: np.ndarray):
  """Our arguments for one sample: tokens, positions, segments, image index, patches."""
  positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
  patches = patches_of(pixels, 7)
  return (tokens.astype(np.int32), positions, np.ones_like(positions), image_index(tokens),
          patches.reshape(1, -1, patches.shape[-1]))


def run_theirs(model, tokens, pixels):
  with torch.no_grad():
    return model(input_ids=torch.tensor(tokens), pixel_values=torch.tensor(pixels),
                 output_hidden_states=True)


def test_logits_and_every_hidden_state_equal_transformers(pair):
  theirs, _, module, params, _ = pair
  tokens, pixels = example(images=2)
  expected = run_theirs(theirs, tokens, pixels)
  ids, positions, segments, index, patches = row(tokens, pixels)
  images = call(module, params, 'image_tokens', patches)
  embeddings = call(module, params, 'embed', ids, images, index)
  states = call(module, params, 'decode', embeddings, positions, segments, extra=(True,))
  logits = call(module, params, 'logits', states[-1])
  assert len(states) == len(expected.hidden_states) == 4
  for ours, reference in zip(states, expected.hidden_states, strict=True):
    assert np.abs(ours - reference.numpy()).max() < 1e-4
  assert np.abs(logits - expected.logits.numpy()).max() < 1e-4
  assert np.abs(expected.logits).max() > 0.1
  last = call(module, params, 'decode', embeddings, positions, segments)
  assert np.array_equal(last, states[-1])


def test_image_tokens_stand_where_image_index_says(pair):
  theirs, _, module, params, _ = pair
  tokens, pixels = example(images=2)
  expected = theirs.get_image_features(pixel_values=torch.tensor(pixels)).pooler_output
  expected = expected.detach().numpy().reshape(8, -1)
  ids, _, _, index, patches = row(tokens, pixels)
  images = call(module, params, 'image_tokens', patches)
  assert np.abs(images[0] - expected).max() < 1e-4
  embeddings = call(module, params, 'embed', ids, images, index)
  text = theirs.get_input_embeddings()(torch.tensor(tokens)).detach().numpy()
  hit = index >= 0
  assert np.array_equal(embeddings[hit], images[0])
  assert np.array_equal(embeddings[~hit], text[~hit])


def test_packed_samples_equal_separate_rows(pair):
  _, _, module, params, _ = pair
  samples = [row(*example(seed, length)) for seed, length in ((1, 9), (2, 12))]
  alone = [np.asarray(call(module, params, None, *sample)) for sample in samples]
  tokens, positions, segments, index, patches = (
      np.concatenate(parts, axis=1) for parts in zip(*samples, strict=True))
  segments[:, 9:] = 2
  index[:, 9:] += 4 * (index[:, 9:] >= 0)
  padded = [np.pad(x, ((0, 0), (0, 3))) for x in (tokens, positions, segments, index)]
  packed = np.asarray(call(module, params, None, *padded, patches))
  assert np.abs(packed[:, :9] - alone[0]).max() < 1e-5
  assert np.abs(packed[:, 9:21] - alone[1]).max() < 1e-5
  assert np.isfinite(packed).all()


def test_tokens_at_the_end_of_the_row_act_by_their_positions(pair):
  """Appended tokens belong to the text wherever they stand in the row."""
  _, _, module, params, _ = pair
  tokens, positions, segments, index, patches = row(*example())
  order = np.r_[0:8, 10:14, 8:10]
  straight = np.asarray(call(module, params, None, tokens, positions, segments, index, patches))
  moved = call(module, params, None, tokens[:, order], positions[:, order], segments,
               index[:, order], patches)
  assert np.abs(moved - straight[:, order]).max() < 1e-5


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
  theirs, _, module, params, _ = pair
  rows = [row(*example(3, 14)), row(*example(4, 9))]
  width = max(sample[0].shape[1] for sample in rows)
  pad = [[np.pad(x, ((0, 0), (0, width - x.shape[1]))) for x in sample[:4]] for sample in rows]
  tokens, positions, segments, index = (np.concatenate(x) for x in zip(*pad, strict=True))
  patches = np.concatenate([sample[4] for sample in rows])
  empty = np.zeros(1)
  prompt = Prompt(tokens, np.repeat(positions[..., None], 3, -1), segments, empty, index, patches,
                  empty, empty, empty)
  text = np.asarray(generate(module, params, prompt, max_new=32, eos_id=-1))
  for number, sample in enumerate(rows):
    assert text[number].tolist() == greedy_without_cache(module, params, sample, 32)
  stop = int(text[0, 3])
  first = text[0].tolist().index(stop)
  stopped = np.asarray(generate(module, params, prompt, max_new=32, eos_id=stop))
  assert stopped[0].tolist() == text[0, :first].tolist() + [stop] * (32 - first)


def greedy_without_cache(module, params, sample, count: int) -> list[int]:
  """Runs the whole text anew for every token, in a row of one static length."""
  tokens, positions, segments, index, patches = sample
  start = tokens.shape[1]
  tokens, segments, index = (np.pad(x, ((0, 0), (0, count))) for x in (tokens, segments, index))
  positions, index[:, start:] = np.arange(start + count, dtype=np.int32)[None], -1
  for end in range(start, start + count):
    logits = np.asarray(call(module, params, None, tokens, positions, segments, index, patches))
    tokens[0, end], segments[0, end] = logits[0, end - 1].argmax(), 1
  return tokens[0, start:].tolist()


@functools.partial(jax.jit, static_argnames='module')
def gradient(module, params, inputs):
  return jax.grad(lambda p: jnp.sum(jnp.square(module.apply({'params': p}, *inputs))))(params)


@pytest.mark.parametrize('remat', ['dots', 'attention', 'full'])
def test_recomputation_changes_no_gradient(remat):
  text = dict(vocab=8, width=16, layers=2, heads=2, kv_heads=1, mlp=8)
  vision = dict(image_size=4, patch_size=2, width=8, layers=1, heads=2, mlp=8)
  ids = np.arange(6, dtype=np.int32)[None]
  index, patches = np.where(ids == 0, 0, -1), np.arange(48, dtype=np.float32).reshape(1, 4, 12)
  inputs = ids, ids, np.ones_like(ids), index, patches / 48
  gradients = []
  for policy in ('none', remat):
    module = registry.build(registry.section(
        'internvl', text=text | dict(remat=policy), vision=vision | dict(remat=policy)),
        jnp.float32)
    params = nn.unbox(jax.jit(lambda rng: registry.init(module, rng))(jax.random.key(0)))['params']
    gradients.append(gradient(module, params, inputs))
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
