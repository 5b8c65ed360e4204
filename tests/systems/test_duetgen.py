"""DuetGen: what the denoiser is told before <BOV>, frames and positions, packing, other models."""

import copy
import dataclasses
import functools
import json
from typing import Any

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tokenizers
import torch

from configs.duetgen import shapes
from configs.duetgen import stage2
from jaxgen.config import source
from jaxgen.conversion.pretrained import read_external
from jaxgen.conversion.tables import cosmos
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data import tasks
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.loader import make_loader
from jaxgen.data.packing import pack
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.data.tokenizer import load_tokenizer
from jaxgen.models.registry import section
from jaxgen.objectives.flow_matching import FlowMatching
from jaxgen.objectives.next_token import NextToken
from jaxgen.sampling.request import make_request
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from jaxgen.training.init_from import load_groups
from jaxgen.training.state import make_blueprint
from tests.data.test_templates import NAMES
from tests.data.test_templates import QWEN
from tests.data.test_templates import make_tokenizer
from tests.systems.small import shrink_duetgen

SIZES = [(16, 16), (16, 32), (24, 16), (32, 20)]  # (height, width) in pixels


def picture(number):
  """uint8[H, W, 3] of one of several sizes."""
  rng = np.random.default_rng(number)
  return rng.integers(0, 256, (*SIZES[number % len(SIZES)], 3), np.uint8)


def said(text):
  return Part('assistant', text=text, loss=True)


def drawn(number):
  return Part('target', image=picture(number), loss=True)


def asked(text):
  return Part('user', text=text)


def given(number):
  return Part('source', image=picture(number))


DIALOGUES = [Sample(f'dialogue {number}', tuple(parts)) for number, parts in enumerate([
    [asked('a red circle'), said('step 1: a circle'), drawn(0), said('done')],
    [given(1), asked('make it blue, then green'), said('blue'), drawn(2), said('green'), drawn(3),
     said('done in 2 steps')],
    [asked('a cross'), drawn(1), asked('now a square'), said('a square:'), drawn(2)],
    [given(3), given(2), asked('both'), said('here they are, side by side'), drawn(1)],
    [asked('three'), said('one'), drawn(0), said('two'), drawn(0), said('three'), drawn(1)]])]


def small(tokenizer, **data):
  """The smallest models of shapes.py, for images of any of the sizes."""
  config = shapes.get_config('joint')
  shrink_duetgen(config.model)
  config.data.update(tokenizer=tokenizer, prompt_tokens=512, buckets='area:512/4',
                     vision_pixels=(64, 640), patches=400, visual_tokens=600, segments_per_row=5)
  config.data.update(data)
  return config


@pytest.fixture(scope='module')
def config(tiny_tokenizer):
  return small(tiny_tokenizer)


@pytest.fixture(scope='module')
def system(config):
  return make_system(config)


@pytest.fixture(scope='module')
def params(system):
  """No layer at zero, so that everything matters."""
  rng = np.random.default_rng(0)
  return trees.map_named(
      lambda _, leaf: np.float32(rng.normal(0.0 if leaf.ndim > 1 else 0.5, 0.2, leaf.shape)),
      system.shapes())


def examples(config, system, task, draw=1.0, samples=tuple(DIALOGUES)):
  maker = ExampleMaker.of(config, system.layout)
  return [maker(tasks.worded(sample, task, config.data, draw)) for sample in samples]


def batch_of(config, system, rows):
  """The examples of every row as a batch, images encoded."""
  loaded = pack(rows, ExampleMaker.of(config, system.layout).row_shape())
  latents = loaded.batch.visual.latents
  flat = latents.reshape(-1, latents.shape[-1])
  for pixels, slots in loaded.images.values():
    tokens = np.asarray(system.encode({}, pixels.astype(np.float32) / 127.5 - 1))
    flat[slots[:, None] + np.arange(tokens.shape[1])] = tokens
  return loaded.batch


@functools.partial(jax.jit, static_argnums=0)
def states_of(system, params, batch):
  return system.prompt_states(params, batch, all_layers=True), system.condition(params, batch)


def test_the_denoiser_is_told_every_layer_of_all_tokens_before_bov(config, system, params):
  """Words and images, mean-normalised layer by layer, through one linear and GELU (L110, L111)."""
  made = examples(config, system, 'dialogue')
  states, told = states_of(system, params, batch_of(config, system, [made]))
  joined = np.concatenate([
      (layer - layer.mean(-1, keepdims=True)) / layer.std(-1, keepdims=True, ddof=1)
      for layer in np.asarray(states, np.float64)[1:]], axis=-1)
  projector = params['connector']['projector']
  expected = jax.nn.gelu(joined @ projector['kernel'] + projector['bias'], approximate=False)
  present = np.asarray(told.segments)[0] > 0
  np.testing.assert_allclose(np.asarray(told.states)[0, present], np.asarray(expected)[0, present],
                             atol=1e-4)
  assert present.sum() == sum(example.prompt.shown.sum() for example in made)
  assert told.pooled is None and told.guidance is None


@pytest.fixture(scope='module')
def chat(tmp_path_factory):
  """Folder of a tokenizer with Qwen's turns and names for images."""
  folder = tmp_path_factory.mktemp('chat')
  make_tokenizer(folder, NAMES['qwen_chat'], QWEN)
  return str(folder)


@pytest.mark.parametrize('dialect, bov', [('plain', ''), ('qwen_chat', ''), ('qwen_chat', '<BOV>')])
@pytest.mark.parametrize('turn', [0, 1])
def test_a_cut_dialogue_has_the_tokens_of_the_whole_one_before_bov(tiny_tokenizer, chat, dialect,
                                                                   bov, turn):
  """So that states of training are exactly those at which the loop begins an image (L110)."""
  config = small(chat if dialect == 'qwen_chat' else tiny_tokenizer, dialect=dialect, bov_token=bov)
  maker = ExampleMaker.of(config, make_system(config).layout)
  begin = maker.tokenizer.bov
  for sample in DIALOGUES:
    targets = [part for part in sample.parts if part.role == 'target']
    if turn >= len(targets):
      continue
    cut = maker(tasks.worded(sample, 'dialogue', config.data, (turn + 0.5) / len(targets))).prompt
    whole = maker(tasks.worded(sample, 'conversation', config.data)).prompt if any(
        part.role == 'assistant' for part in sample.parts) else None
    count = int(cut.shown.sum())
    assert cut.shown[:count].all()
    for name in ('tokens', 'positions', 'image_index'):
      np.testing.assert_array_equal(getattr(cut, name)[:count], getattr(whole, name)[:count])
    # The next token of the whole dialogue is <BOV>, and it is in the loss (L114).
    assert whole.tokens[count] == begin and whole.loss_mask[count] == 1
    rest = cut.tokens[count:].tolist()
    assert rest == ([begin] if dialect == 'qwen_chat' else [])
    # As many <BOV> as images of the assistant; the user's begin as ever.
    called = np.sum((whole.tokens == begin) & (whole.loss_mask > 0))
    assert called == len(targets)
    if bov:
      assert begin != maker.tokenizer.image_start and np.sum(whole.tokens == begin) == len(targets)


def test_alignment_data_teach_the_language_model_no_bov(chat):
  """They are not meant to be dialogues (L114)."""
  config = small(chat, dialect='qwen_chat')
  maker = ExampleMaker.of(config, make_system(config).layout)
  sample = Sample('pair', (asked('a cat'), drawn(0)))
  for task, weight in (('pair', 0), ('dialogue', 1)):
    prompt = maker(tasks.worded(sample, task, config.data)).prompt
    assert prompt.tokens[-1] == maker.tokenizer.bov and prompt.loss_mask.sum() == weight


def test_the_weight_of_bov_changes_its_positions_alone(config):
  sample = tasks.worded(DIALOGUES[1], 'conversation', config.data)
  layout, masks = make_system(config).layout, []
  for weight in (1.0, 0.25):
    changed = copy.deepcopy(config)
    changed.data.bov_weight = weight
    maker = ExampleMaker.of(changed, layout)
    masks.append(maker(sample).prompt.loss_mask)
  moved = np.flatnonzero(masks[0] != masks[1])
  assert (maker(sample).prompt.tokens[moved] == maker.tokenizer.bov).all() and len(moved) == 2
  assert (masks[1][moved] == 0.25).all()


def test_earlier_images_are_clean_frames_each_at_a_time_and_on_a_grid_of_its_own(config, system):
  """The user's and those drawn before, in their order; t + 1 for each (L110, L112, A24)."""
  first, _, _, _, last = examples(config, system, 'dialogue')
  second, = examples(config, system, 'dialogue', samples=DIALOGUES[1:2])
  for example, sizes in ((first, [0]), (second, [1, 2, 3]), (last, [0, 0, 1])):
    assert [image.is_target for image in example.images] == [False] * (len(sizes) - 1) + [True]
    for time, (image, number) in enumerate(zip(example.images, sizes, strict=True)):
      height, width = (side // 4 for side in image.size)
      places = image.positions.reshape(height, width, 3)
      assert (places[..., 0] == time).all()
      np.testing.assert_array_equal(np.moveaxis(places[..., 1:], -1, 0),
                                    np.indices((height, width)))
      ratio = SIZES[number][0] / SIZES[number][1]
      assert height / width == pytest.approx(ratio, rel=0.25)
  assert len({image.size for image in second.images}) == 3


def test_dropping_the_last_text_takes_its_states_away_and_leaves_the_others(config, system, params):
  """In training and as the negative of guidance (L119)."""
  whole = tasks.worded(DIALOGUES[1], 'dialogue', config.data)
  (weight, kept), (rest, negative) = system.branches(whole, {'text': 5.0, 'image': 1.0})
  assert (weight, rest) == (5.0, -4.0) and kept is whole
  assert negative == tasks.dropped(whole, 'last_text', '')
  assert negative.images == whole.images
  maker = ExampleMaker.of(config, system.layout)
  both, less = (maker(sample) for sample in (whole, negative))
  _, told = states_of(system, params, batch_of(config, system, [[both], [less]]))
  count = int(less.prompt.shown.sum())
  assert count == both.prompt.shown.sum() - len(maker.tokenizer.encode('green'))
  np.testing.assert_allclose(told.states[1, :count], told.states[0, :count], atol=1e-5)
  np.testing.assert_array_equal(less.images[-1].positions, both.images[-1].positions)


def test_guidance_leads_away_from_what_training_drops(config):
  whole = tasks.worded(DIALOGUES[1], 'dialogue', config.data)
  changed = copy.deepcopy(config)
  changed.data.dropout.update(text=0.2, last_text=0.0)
  _, (_, negative) = make_system(changed).branches(whole, {'text': 5.0, 'image': 1.0})
  assert negative == tasks.dropped(whole, 'text', '') and not negative.texts
  assert negative.images == whole.images


@dataclasses.dataclass(frozen=True)
class Known(FlowMatching):
  """Flow matching at times f32[B, G] and with noise f32[B, L, C] of our choice."""

  t: Any = None
  eps: Any = None

  def timesteps(self, rng, batch):
    return self.t

  def noise(self, rng, batch):
    return self.eps


@functools.partial(jax.jit, static_argnums=0)
def losses_of(system, params, batch, told, t, eps):
  """Gradients of the sum of both losses, and the two."""
  flow = Known(density='uniform', mean=0.0, std=1.0, shift=1.0, sources=('x',), t=t, eps=eps)

  def total(params):
    drawn, _ = flow(system, params, batch, jax.random.key(0))
    said, _ = NextToken()(system, params, told, None)
    return drawn + said, (drawn, said)

  return jax.grad(total, has_aux=True)(params)


def test_five_packed_dialogues_equal_separate_ones(config, system, params):
  """Losses of both objectives, and their gradients with respect to every parameter (F32)."""
  told = examples(config, system, 'conversation')
  made = examples(config, system, 'dialogue')
  assert len({image.size for example in made for image in example.images}) >= 4
  noises = [np.random.default_rng(number).normal(
      size=(sum(len(image.positions) for image in example.images), 48)).astype(np.float32)
            for number, example in enumerate(made)]
  times = np.array([0.1, 0.3, 0.5, 0.7, 0.9], np.float32)

  def run(order):
    batch = batch_of(config, system, [[made[index] for index in row] for row in order])
    spoken = batch_of(config, system, [[told[index] for index in row] for row in order])
    t = np.zeros((len(order), 5), np.float32)
    eps = np.zeros_like(batch.visual.latents)
    for row, members in enumerate(order):
      t[row, :len(members)] = times[members]
      found = np.concatenate([noises[index] for index in members])
      eps[row, :len(found)] = found
    return losses_of(system, params, batch, spoken, t, eps)

  gradients, (flowed, spoke) = run([[0, 1, 2, 3, 4]])
  alone, separate = run([[0], [1], [2], [3], [4]])
  np.testing.assert_allclose((flowed, spoke), separate, rtol=1e-5)
  assert flowed > 1 and spoke > 1
  for path, leaf in trees.flatten(alone).items():
    scale = max(float(np.abs(leaf).max()), 1e-3)
    np.testing.assert_allclose(trees.flatten(gradients)[path], leaf, atol=2e-5 * scale + 1e-5,
                               err_msg=path)


def test_rows_of_dialogues_and_alignment_data_have_little_padding(tiny_tokenizer):
  """Eight images fill a row, whatever their shapes, as at full size."""
  config = small(tiny_tokenizer)
  config.data.update(buckets='ratios:32/4', segments_per_row=8, look_ahead=16, prompt_tokens=1500,
                     patches=3000, visual_tokens=8 * 68)
  sizes = (('sizes', '32x32,28x36,36x28,44x24,24x44'),)
  config.data.sources = {
      name: source('shapes', task, path=path, share=(share,), fields=sizes)
      for name, task, path, share in (
          ('guide', 'dialogue', 'guide', 0.25), ('session', 'dialogue', 'session', 0.25),
          ('scene', 'pair', 'scene', 0.2), ('edit', 'edit', 'edit', 0.3))}
  config.train.rows = 8
  loader = make_loader(config, make_system(config).layout)
  try:
    loaded = [next(loader) for _ in range(8)]
  finally:
    loader.close()
  assert len({size for each in loaded for size in each.images}) >= 4
  shares = [each.padding_share for each in loaded[1:]]
  assert np.mean(shares) <= 0.05, shares


OTHERS = {
    'InternVL and HunyuanVideo': dict(
        mllm=section('internvl', image_token_id=5,
                     vision=dict(image_size=8, patch_size=4, width=16, layers=1, heads=2, mlp=32),
                     text=dict(vocab=512, width=32, layers=2, heads=4, kv_heads=2, mlp=64)),
        denoiser=section('hunyuan_video', in_channels=48, out_channels=48, cond_dim=24,
                         pooled_dim=16, width=32, heads=2, double_blocks=1, single_blocks=1,
                         refiner_blocks=1, axes_dims=(4, 6, 6))),
    'last layer and MMDiT': dict(
        connector=section('mlp_connector', width=32, hidden=16, out_width=24),
        denoiser=section('mmdit', in_channels=48, cond_dim=24, width=32, heads=2, double_blocks=1,
                         single_blocks=1, axes_dims=(4, 6, 6))),
}


@pytest.mark.parametrize('models', OTHERS.values(), ids=OTHERS)
def test_other_models_of_the_registry_are_named_by_config(config, models):
  """Any language model that sees and any denoiser (L108): what it is told reaches the image."""
  changed = copy.deepcopy(config)
  for group, values in models.items():
    changed.model[group] = values
  changed.data.update(vision_size=8, patches=4 * 3 if 'mllm' in models else 400)
  other = make_system(changed)
  batch = batch_of(changed, other, [examples(changed, other, 'dialogue', samples=DIALOGUES[1:2])])
  assert (batch.prompt.image_index >= 0).any()
  rng = np.random.default_rng(0)
  params = trees.map_named(lambda _, leaf: np.float32(rng.normal(0.1, 0.2, leaf.shape)),
                           other.shapes())

  @jax.jit
  def velocity(params, batch):
    return other.denoise(params, batch.visual.latents, jnp.full((1, 5), 0.5), batch.visual,
                         other.condition(params, batch))

  found = np.asarray(velocity(params, batch))
  assert np.isfinite(found).all()
  prompt = batch.prompt
  for name, value in (('tokens', prompt.tokens + 1), ('patches', prompt.patches + 1)):
    changed_batch = batch.replace(prompt=prompt.replace(**{name: value}))
    moved = np.abs(np.asarray(velocity(params, changed_batch)) - found)
    assert moved[batch.visual.is_target].max() > 1e-3, name


def test_the_release_of_cosmos_gives_connector_and_denoiser(config, system, tmp_path, capsys):
  """Its projection of text states is the connector (A21); sizes are those of ``small``."""
  changed = copy.deepcopy(config)
  theirs = cosmos.FAMILY.write_config(dict(
      changed.model.denoiser.to_dict(), cond_projection=True, cond_dim=2 * 32))
  torch.manual_seed(0)
  model = diffusers.CosmosTransformer3DModel.from_config(theirs)
  folder = str(tmp_path / 'cosmos')
  model.save_pretrained(folder)
  changed.init_from.update(connector=folder, denoiser=folder)
  changed.init_from.changes = stage2.get_config().init_from.changes
  blueprint = make_blueprint(changed, system, ('connector', 'denoiser'),
                             make_mesh(changed.mesh, jax.devices()[:1]))
  loaded, _ = load_groups(changed, blueprint, read_external)
  kernel = np.asarray(loaded['connector']['projector']['kernel'])
  np.testing.assert_array_equal(kernel, model.crossattn_proj[0].weight.detach().numpy().T)
  assert set(trees.flatten(loaded['connector'])) == {'projector/kernel', 'projector/bias'}
  assert trees.flatten(loaded['denoiser']).keys() == trees.flatten(
      system.shapes(['denoiser'])['denoiser']).keys()
  assert 'dropped' in capsys.readouterr().err


@pytest.mark.parametrize('group, field, value, said', [
    ('connector', 'width', 64, r'model.connector.width = 64: must equal .*mllm.text.width = 32'),
    ('connector', 'layers', 3, r'model.connector.layers = 3: must equal .*mllm.text.layers = 2'),
    ('connector', 'out_width', 20, r'model.denoiser.cond_dim = 24: must equal .*out_width = 20'),
    ('denoiser', 'in_channels', 64, r'in_channels = 64: must equal the channels of a latent')])
def test_sizes_that_do_not_fit_each_other_are_refused(config, group, field, value, said):
  changed = copy.deepcopy(config)
  changed.model[group][field] = value
  with pytest.raises(UserError, match=said):
    make_system(changed)


def test_a_negative_prompt_that_nothing_would_read_is_refused(config):
  changed = copy.deepcopy(config)
  changed.sampling.negative_prompt = 'blurry'
  with pytest.raises(UserError, match="negative_prompt = 'blurry': DuetGen is guided away from"):
    make_system(changed)


def test_a_request_is_drawn_after_its_images(config, system):
  request = make_request(config, 'both', reference=[picture(1), picture(2)], size=(16, 32))
  example = ExampleMaker.of(config, system.layout)(request.sample)
  assert [image.positions[0, 0] for image in example.images] == [0, 1, 2]
  assert [image.is_target for image in example.images] == [False, False, True]


def line(folder, *parts):
  """A file with one dialogue."""
  (folder / 'd.jsonl').write_text(json.dumps({'id': 'd', 'parts': parts}) + '\n')
  return str(folder / 'd.jsonl')


ASKED, SAID = dict(text='a cat', role='user'), dict(text='here:', role='assistant')


@pytest.mark.parametrize('parts, data, said', [
    ([ASKED, SAID, ASKED], {}, r"parts\[2\].role .*user.?: the dialogue ends in a turn of"),
    ([ASKED, dict(SAID, role='robot')], {}, r"parts\[1\].role .*robot.?: use one of system, "),
    ([ASKED, SAID, dict(image='none.png', role='target')], {}, 'none.png'),
    ([ASKED, dict(SAID, text='long ' * 60)], dict(prompt_tokens=40),
     r'the prompt has \d+ tokens, more than config.data.prompt_tokens = 40'),
    ([ASKED], {}, 'has no text with loss; give it an assistant text')])
def test_a_dialogue_that_cannot_be_used_ends_in_one_line(config, tmp_path, parts, data, said):
  """Which names the file, its line and the part, or the field of the config."""
  changed = copy.deepcopy(config)
  changed.data.sources = {'d': source('jsonl', 'conversation', path=line(tmp_path, *parts))}
  changed.data.update(data)
  with pytest.raises(UserError, match=said) as caught:
    loader = make_loader(changed, make_system(changed).layout)
    try:
      next(loader)
    finally:
      loader.close()
  assert '\n' not in str(caught.value)
  assert 'd.jsonl' in str(caught.value)


def test_a_bov_that_the_language_model_has_no_row_for_is_refused(config):
  changed = copy.deepcopy(config)
  changed.data.bov_token = '<BOV>'
  changed.model.mllm.text.vocab = load_tokenizer(changed.data.tokenizer).vocab_size
  with pytest.raises(UserError, match=r'tokens with bov_token = .<BOV>., but the language model k'):
    ExampleMaker.of(changed, make_system(changed).layout)


def test_a_tokenizer_without_bov_is_refused(config, tmp_path):
  changed = copy.deepcopy(config)
  backend = tokenizers.Tokenizer(tokenizers.models.BPE())
  backend.add_special_tokens(['<|im_end|>'])
  backend.save(str(tmp_path / 'tokenizer.json'))
  changed.data.tokenizer = str(tmp_path)
  with pytest.raises(UserError, match='the tokenizer lacks .*the tokens for images'):
    ExampleMaker.of(changed, make_system(changed).layout)
