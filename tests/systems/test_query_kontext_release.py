"""Query-Kontext's exported models, run by transformers, diffusers and PEFT alone, draw the same.

A run with adapters of language model and denoiser is exported; its folders are opened by the
libraries' classes, and everything around them, from the chat template to guidance, is written out
here a second time.
"""

import collections
import pathlib

import diffusers
import jax
import numpy as np
import peft
import pytest
import safetensors.torch
import torch
import transformers
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from configs.query_kontext import shapes
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.conversion.commands import export
from jaxgen.core import trees
from jaxgen.models.layers import lora
from jaxgen.objectives import noise
from jaxgen.sampling.batching import make_batch
from jaxgen.sampling.generate import solve
from jaxgen.sampling.load import load_run
from jaxgen.sampling.request import make_request
from jaxgen.sampling.schedules import linear_sigmas
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from tests.models import parity
from tests.models.test_dual_stream import PlacedRope

PATCH, MERGE, STEPS, SHIFT, SCALES = 4, 2, 4, 3.0, (4.0, 1.5)
RANK, ALPHA = 4, 6.0
BOUNDS = dict(min_pixels=64, max_pixels=1024)
FIRST, SECOND = (np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
                 for seed, size in enumerate([(16, 24), (32, 16)]))
# Words, source, references, size: an edit in Chinese with a reference, two references, words.
REQUESTS = [('把红色圆形变成蓝色', [FIRST], [SECOND], (16, 24)),
            ('swap', [], [SECOND, FIRST], (8, 16)),
            ('a cross', [], [], (16, 8))]


@pytest.fixture(scope='module')
def config(chat):
  folder, tokenizer, _ = chat
  made = shapes.get_config('stage3')
  made.model.mllm.vision.update(width=32, heads=2, mlp=48, patch_size=PATCH, window=16)
  made.model.mllm.text.update(width=64, heads=4, kv_heads=2, mlp=96, rope_sections=(2, 3, 3),
                              vocab=tokenizer.vocab_size)
  made.model.mllm.update(image_token_id=tokenizer.image, vision_start_id=tokenizer.image_start,
                         vision_end_id=tokenizer.image_end, video_token_id=0)
  made.model.bridge.width = made.model.connector.width = 64
  made.model.connector.update(hidden=40, out_width=48)
  made.model.denoiser.update(cond_dim=48, width=64, heads=2, layers=2)
  made.model.lora.mllm = shapes.get_config('stage1').model.lora.mllm
  for adapter in made.model.lora.values():
    adapter.update(rank=RANK, alpha=ALPHA)
  made.data.update(tokenizer=folder, dialect='qwen_chat', references='native', prompt_tokens=160,
                   scheme='shifted', segments_per_row=1,
                   vision_pixels=(BOUNDS['min_pixels'], BOUNDS['max_pixels']))
  made.sampling.update(guidance=SCALES[0], image_guidance=SCALES[1])
  return made


@pytest.fixture(scope='module')
def run(config, tmp_path_factory):
  """``adapted/`` and, without adapters, ``plain/``: what runs leave, no layer at zero."""
  rng = np.random.default_rng(0)

  def drawn(path, leaf):
    name = path.rpartition('/')[2]
    centre, width = {'alpha': (ALPHA, 0.0), 'scale': (1.0, 0.1)}.get(name, (0.0, 0.15))
    return rng.normal(centre, width, leaf.shape).astype(np.float32)

  params = trees.map_named(drawn, make_system(config).shapes())
  folder = tmp_path_factory.mktemp('run')
  save_weights(str(folder / 'adapted'), params, to_json(config))
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.model.lora = {}
  save_weights(str(folder / 'plain'), lora.split(params)[0], to_json(config))
  return folder


@pytest.fixture(scope='module')
def exported(run, tmp_path_factory) -> pathlib.Path:
  """``merge/`` and ``peft/`` of the run with adapters, ``base/`` of the one without."""
  out = tmp_path_factory.mktemp('exported')
  for style in ('merge', 'peft'):
    export(str(run / 'adapted'), str(out / style), lora=style)
  export(str(run / 'plain'), str(out / 'base'))
  return out


@pytest.fixture(scope='module')
def held(run):
  """What ``jaxgen sample`` loads."""
  return load_run(str(run / 'adapted'))


@pytest.fixture(scope='module')
def batch(held):
  """All requests in one batch, each with its branches."""
  requests = [make_request(held.config, text, source=source, reference=reference, size=size,
                           seed=number, number=number)
              for number, (text, source, reference, size) in enumerate(REQUESTS)]
  return make_batch(requests, held.system, held.maker, 4, 1)


class Reader:
  """What the language model is given: the prompt by its chat template, then the kontext tokens.

  Args:
    folder: exported models.
    tokenizer: a transformers one.
  """

  def __init__(self, folder, tokenizer):
    self.model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(
        str(folder / 'mllm'), dtype=torch.float32).eval()
    bridge = safetensors.torch.load_file(str(folder / 'adapter' / 'model.safetensors'))
    self.queries = bridge['meta_queries'].numpy()  # [Q, D]
    self._tokenizer = tokenizer
    self._processor = Qwen2VLImageProcessorPil(patch_size=PATCH, merge_size=MERGE, **BOUNDS)

  def states(self, text, images):
    """``parity.Theirs`` of the states [n + Q, D] of one prompt."""
    pictures = self._processor(images, return_tensors='np') if images else {}
    grids = pictures.get('image_grid_thw', np.zeros((0, 3), int))
    ids = np.array(self._ids(text, grids))
    # The kontext tokens stand where further words would.
    is_image = np.append(ids == self._tokenizer.convert_tokens_to_ids('<|image_pad|>'),
                         np.zeros(len(self.queries), bool))
    places, _ = self.model.model.get_rope_index(
        torch.tensor(np.append(ids, np.ones(len(self.queries), int)))[None],
        torch.tensor(is_image).int()[None],
        image_grid_thw=torch.tensor(grids) if images else None)

    def run(model, queries, patches=None):
      words = model.get_input_embeddings()(torch.tensor(ids))
      given = dict(pixel_values=patches, image_grid_thw=torch.tensor(grids)) if images else {}
      return model.model(inputs_embeds=torch.cat([words, queries])[None], position_ids=places,
                         **given).last_hidden_state[0]

    given = dict(patches=pictures['pixel_values']) if images else {}
    return parity.theirs(self.model, run, self.queries, **given)

  def _ids(self, text, grids):
    content = [{'type': 'image'}] * len(grids) + ([{'type': 'text', 'text': text}] if text else [])
    ids = self._tokenizer.apply_chat_template(
        [{'role': 'user', 'content': content}], add_generation_prompt=True, tokenize=False)
    pad = '<|image_pad|>'
    before, *rest = ids.split(pad)
    filled = before + ''.join(pad * (rows * columns // MERGE**2) + more
                              for (_, rows, columns), more in zip(grids, rest, strict=True))
    # The token that begins an image is the last one of the prompt (A20).
    return self._tokenizer(f'{filled}<|vision_start|>', add_special_tokens=False)['input_ids']


@pytest.fixture(scope='module')
def read(exported, chat):
  """The states of every branch of every request, as ``parity.Theirs``."""
  reader, found = Reader(exported / 'merge', chat[2]), []
  nothing = reader.states('', [])
  for text, source, references, _ in REQUESTS:
    images = source + references
    found.append([reader.states(text, images),
                  *([reader.states('', images)] if images else []), nothing])
  return found


def test_states_equal_transformers_at_words_images_and_kontext_tokens(held, batch, read):
  rows = batch.branches.batch
  states = np.asarray(jax.jit(held.system.prompt_states)(held.params, rows))
  count, segments = batch.branches.weights.shape[1], np.asarray(rows.prompt.segments)
  assert count == 3 and segments.max() > 1  # some requests share their rows
  before = collections.Counter()
  for index, row, _, _ in batch.drawn:
    before[row] += 1
    for branch, expected in enumerate(read[index]):
      own = segments[row * count + branch] == before[row]
      assert len(expected.exact) == own.sum() > shapes.QUERIES
      parity.assert_near(states[row * count + branch][own], expected,
                         where=f'request {index}, branch {branch}')


class Painter:
  """A denoising loop over one request with the classes of diffusers and PEFT.

  Args:
    exported: folders of ``exported``.
    style: ``merge`` or ``peft``: how the adapter comes to the denoiser.
    axes: ``(theta, axes_dims)`` of the rotation, as a config.
  """

  def __init__(self, exported, style, axes):
    kind = diffusers.QwenImageTransformer2DModel
    self._axes = axes
    if style == 'merge':
      self._model = kind.from_pretrained(str(exported / style / 'denoiser'))
      self._inner = self._model
    else:
      self._inner = kind.from_pretrained(str(exported / 'base' / 'denoiser'))
      self._model = peft.PeftModel.from_pretrained(
          self._inner, str(exported / style / 'denoiser_lora'))
    self._model.eval()
    weights = safetensors.torch.load_file(str(exported / style / 'connector' / 'model.safetensors'))
    out, hidden = weights['2.weight'].shape
    self._connector = torch.nn.Sequential(
        torch.nn.Linear(weights['0.weight'].shape[1], hidden), torch.nn.GELU(),
        torch.nn.Linear(hidden, out))
    self._connector.load_state_dict(weights)

  @torch.no_grad()
  def velocity(self, x, t, states, source, references, grid):
    """The target's part f[h w, C] of one forward: source, target, references (L057-L059)."""
    own = np.indices(grid)
    places, tokens = [own], [x]
    for image in source:
      places.insert(0, -own)
      tokens.insert(0, latents_of(image))
    corner = np.array(grid)
    for image in references:
      size = np.array(image.shape[:2]) // 4
      places.append(np.indices(size) + corner[:, None, None])
      tokens.append(latents_of(image))
      corner = corner + size
    flat = np.concatenate([each.reshape(2, -1) for each in places], axis=1).T
    flat = np.pad(flat, ((0, 0), (1, 0)))
    self._inner.pos_embed = PlacedRope(flat, np.zeros((len(states), 3), int), self._axes)
    told = self._connector(torch.tensor(states, dtype=torch.float32))[None]
    found = self._model(
        hidden_states=torch.tensor(np.concatenate(tokens), dtype=torch.float32)[None],
        encoder_hidden_states=told, encoder_hidden_states_mask=torch.ones(1, len(states)),
        timestep=torch.tensor([t], dtype=torch.float32), img_shapes=[[(1, *grid)]],
        return_dict=False)[0][0].numpy()
    first = len(tokens[0]) if source else 0
    return found[first:first + len(x)]

  def paint(self, x, states, source, references, grid):
    """From noise f[h w, C] to latents, by Euler's steps; ``states`` of the branches."""
    text, image = SCALES
    levels = np.linspace(1, 0, STEPS + 1)
    levels = SHIFT * levels / (1 + (SHIFT - 1) * levels)
    for now, then in zip(levels[:-1], levels[1:]):
      told = self.velocity(x, now, states[0], source, references, grid)
      nothing = self.velocity(x, now, states[-1], [], [], grid)
      if len(states) == 3:
        untold = self.velocity(x, now, states[1], source, references, grid)
        v = nothing + image * (untold - nothing) + text * (told - untold)
      else:
        v = nothing + text * (told - nothing)
      x = x + (then - now) * v
    return x


def latents_of(image):
  """f[h w, 48] of uint8[H, W, 3]: pixels by 2 x 2 to latents, those by 2 x 2 to tokens."""
  height, width, _ = image.shape
  # [row, row of latent, row of pixel, column, column of latent, column of pixel, colour]
  split = (image / 127.5 - 1).reshape(height // 4, 2, 2, width // 4, 2, 2, 3)
  return split.transpose(0, 3, 6, 2, 5, 1, 4).reshape(-1, 48)


@pytest.fixture(scope='module')
def solved(held, batch):
  """``(noise, latents)`` f32[R, M, C] of the requests, in one batch."""
  mesh = make_mesh(held.config.mesh, jax.devices()[:1])
  with partition.scope(mesh):
    latents = solve(held.system, held.params, batch, linear_sigmas(STEPS, SHIFT), 'euler', mesh, ())
  keys = jax.vmap(jax.random.key)(batch.seeds.ravel()).reshape(batch.seeds.shape)
  keys = noise.fold(noise.fold(keys, batch.numbers), batch.outputs)
  return np.asarray(noise.image_noise(keys, batch.images, latents.shape[-1])), latents


def test_peft_reads_the_adapter_of_the_language_model(exported, chat, read):
  reader = Reader(exported / 'base', chat[2])
  text, source, references, _ = REQUESTS[0]
  merged = read[0][0].rounded
  assert np.abs(reader.states(text, source + references).rounded - merged).max() > 0.1
  # The layers are changed in place.
  peft.PeftModel.from_pretrained(reader.model, str(exported / 'peft' / 'mllm_lora')).eval()
  adapted = reader.states(text, source + references).rounded
  np.testing.assert_allclose(adapted, merged, atol=1e-4)


@pytest.mark.parametrize('style', ['merge', 'peft'])
def test_guided_samples_equal_a_loop_over_the_exported_models(
    style, held, exported, batch, read, solved):
  """Three branches where there are images, two for words alone (L145)."""
  painter = Painter(exported, style, held.system.models['denoiser'].config)
  assert len(batch.drawn) == len(REQUESTS)
  for index, row, start, grid in batch.drawn:
    _, source, references, size = REQUESTS[index]
    assert grid == (size[0] // 4, size[1] // 4)
    states = [branch.rounded for branch in read[index]]
    begin, ours = (each[row, start:start + grid[0] * grid[1]] for each in solved)
    painted = painter.paint(begin, states, source, references, grid)
    np.testing.assert_allclose(ours, painted, atol=2e-4)
    assert 0.1 < np.abs(painted - begin).mean() < 100


def test_what_is_exported(exported):
  """The classes that open each folder, and the sizes that they read."""
  def held(folder):
    return {path.name for path in (exported / folder).iterdir()}

  assert held('merge') == {'mllm', 'adapter', 'connector', 'denoiser'}
  assert held('peft') == {'mllm_lora', 'adapter', 'connector', 'denoiser_lora'}
  denoiser = diffusers.QwenImageTransformer2DModel.load_config(str(exported / 'merge' / 'denoiser'))
  assert (denoiser['num_layers'], denoiser['joint_attention_dim'], denoiser['in_channels']) == (
      2, 48, 48)
  for group in ('mllm', 'denoiser'):
    adapter = peft.PeftConfig.from_pretrained(str(exported / 'peft' / f'{group}_lora'))
    assert (adapter.r, adapter.lora_alpha) == (RANK, ALPHA)
  plain, merged = (safetensors.torch.load_file(str(
      exported / folder / 'denoiser' / 'diffusion_pytorch_model.safetensors'))
      for folder in ('base', 'merge'))
  changed = {name for name in plain if not torch.equal(plain[name], merged[name])}
  assert plain.keys() == merged.keys() and 'transformer_blocks.0.attn.to_q.weight' in changed
  assert not any('mod' in name or 'bias' in name for name in changed)
