"""Query-Kontext's second stage as one step in jaxgen, and of the classes of PyTorch it is made of.

The frozen Qwen2.5-VL reads a prompt, an image and the kontext tokens behind them; its states pass
the connector to the MMDiT. The step trains kontext tokens, connector and MMDiT, so gradients pass
back through the language model too. PyTorch has transformers' Qwen2_5_VLForConditionalGeneration,
diffusers' QwenImageTransformer2DModel and the connector between them. The losses equal ours.
"""

import argparse
import functools
import math
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict
from timing import ADAMW
from timing import alternate
from timing import RATE
from train_step import jaxgen_step

from configs.query_kontext import base
from jaxgen.conversion import engine
from jaxgen.conversion.tables import connectors
from jaxgen.conversion.tables import qwen2_5_vl
from jaxgen.conversion.tables import qwen_image
from jaxgen.core import trees
from jaxgen.core.types import Batch
from jaxgen.core.types import Meta
from jaxgen.core.types import Prompt
from jaxgen.core.types import Visual
from jaxgen.data.vision import native_positions
from jaxgen.data.vision import rotary_positions
from jaxgen.models.registry import section
from jaxgen.systems.registry import make_system
from jaxgen.training.flops import count_flops

VOCAB, IMAGE = 4096, 5
QUERIES, SEEN = 128, 18  # kontext tokens; tokens along a side of an image of 512 pixels
TRAINED = ('bridge', 'connector', 'denoiser')
AXES = (8, 28, 28)  # channels of a head that turn with (t, h, w)


class Kontext:
  """A ``Bench`` of ``bench_step``: the whole step for one sample.

  Attributes:
    tokens: that the MMDiT reads.
    words: what the batch holds.
  """

  def __init__(self, flags: argparse.Namespace):
    self._side = math.isqrt(flags.image)
    if self._side**2 != flags.image or flags.batch != 1:
      raise SystemExit(f'--image={flags.image} --batch={flags.batch}: must be a square number of '
                       'tokens and one row')
    self._flags, self._system = flags, make_system(_config(flags))
    self._params = trees.map_named(_drawn(np.random.default_rng(1)), self._system.shapes(
        ['mllm', *TRAINED]))
    self._batch = _batch(flags, self._system)
    rng = np.random.default_rng(2)
    self._target = rng.normal(size=self._batch.visual.latents.shape).astype(np.float32)
    self._t = rng.uniform(size=(1, 1)).astype(np.float32)
    prompt = self._batch.prompt.tokens.shape[1]
    self.tokens = flags.image + prompt
    self.words = (f'{flags.image} image tokens beside a prompt of {flags.text} words, '
                  f'{SEEN**2} image and {QUERIES} kontext tokens; language model of '
                  f'{flags.single} blocks, MMDiT of {flags.double + flags.single}')

  def sides(self, dtype: jnp.dtype, platform: str) -> dict[str, Callable[[], float]]:
    """Name -> function that runs one training step and returns its loss."""
    del dtype  # a section of its own says it: ``model.compute_dtype``
    sides = {'jaxgen': self._ours(self._batch)}
    if not self._flags.no_torch:
      sides['torch'] = self._theirs(platform)
    return sides

  def flops(self) -> float:
    """Matrix-product FLOPs of a step."""
    trained, frozen = self._split()
    return count_flops(jax.value_and_grad(self._loss), trained, frozen, self._batch)

  def shares(self, seconds: float) -> list[str]:
    """What the frozen language model takes of a step of so many seconds, as lines."""
    def states(queries, mllm, batch):
      params = {'mllm': mllm, 'bridge': {'queries': queries}}
      return jnp.mean(jnp.square(self._system.prompt_states(params, batch)))

    def seen(_, mllm, batch):
      return jnp.mean(jnp.square(self._system.models['mllm'].apply(
          {'params': mllm}, batch.prompt, method='image_tokens')))

    given = jax.tree.map(jnp.asarray, (self._params['bridge']['queries'], self._params['mllm'],
                                       self._batch))
    sides = {name: functools.partial(_scalar, jax.jit(run), given) for name, run in (
        ('forward', states), ('forward and back to the kontext tokens',
                              lambda *given: jax.value_and_grad(states)(*given)),
        ('vision tower', seen))}
    _, times = alternate(sides, self._flags.steps)
    return [f'frozen language model, {name}: {statistics.median(each):.3f} s, '
            f'{100 * statistics.median(each) / seconds:.0f} % of the step'
            for name, each in times.items()] + [self._without_tower()]

  def _without_tower(self) -> str:
    """How much faster a step is that has its image tokens from a cache, as a line."""
    prompt, group = self._batch.prompt, self._system.layout.vision.merge**2
    tokens = np.asarray(jax.jit(self._system.image_tokens)(self._params, prompt), np.float32)
    known = self._batch.replace(prompt=prompt.replace(
        patches=tokens, maskable=prompt.maskable[:, ::group], encoded=True))
    _, times = alternate({'plain': self._ours(self._batch), 'cached': self._ours(known)},
                         self._flags.steps)
    plain, cached = (statistics.median(times[name]) for name in ('plain', 'cached'))
    return (f'step with image tokens from a cache: {cached:.3f} s, {plain / cached:.2f} times as '
            'fast')

  def _loss(self, trained: Any, frozen: Any, batch: Batch) -> jax.Array:
    params = trained | frozen
    conditioning = self._system.condition(params, batch)
    velocity = self._system.denoise(params, batch.visual.latents, self._t, batch.visual,
                                    conditioning)
    return jnp.mean(jnp.square(velocity - self._target))

  def _ours(self, batch: Batch) -> Callable[[], float]:
    return jaxgen_step(self._loss, *self._split(), batch)

  def _split(self) -> tuple[dict[str, Any], dict[str, Any]]:
    """The parameters that train, and the frozen ones."""
    return {group: self._params[group] for group in TRAINED}, {'mllm': self._params['mllm']}

  def _theirs(self, platform: str) -> Callable[[], float]:
    import torch
    device = 'cpu' if platform == 'cpu' else 'cuda'
    mllm, connector, denoiser = (model.to(device) for model in self._torch_models())
    mllm.requires_grad_(False)
    queries = torch.nn.Parameter(torch.tensor(self._params['bridge']['queries'], device=device))
    trained = [queries, *connector.parameters(), *denoiser.parameters()]
    optimizer = torch.optim.AdamW(trained, RATE, (ADAMW['b1'], ADAMW['b2']), ADAMW['eps'],
                                  ADAMW['weight_decay'], fused=True)
    prompt = self._batch.prompt
    words = torch.tensor(prompt.tokens[:, :-QUERIES], device=device).long()
    places = torch.tensor(np.moveaxis(prompt.positions, -1, 0), device=device).long()
    patches, latents, target, t = (
        torch.tensor(array, device=device) for array in (
            prompt.patches[0], self._batch.visual.latents, self._target, self._t[:, 0]))
    grid = torch.tensor([(1, 2 * SEEN, 2 * SEEN)], device=device)
    told = torch.ones(prompt.tokens.shape, device=device)

    def step():
      with torch.autocast(device, torch.bfloat16, enabled=device == 'cuda'):
        embedded = torch.cat([mllm.get_input_embeddings()(words), queries[None]], dim=1)
        states = mllm.model(inputs_embeds=embedded, position_ids=places, pixel_values=patches,
                            image_grid_thw=grid).last_hidden_state
        velocity = denoiser(
            hidden_states=latents, encoder_hidden_states=connector(states),
            encoder_hidden_states_mask=told, timestep=t,
            img_shapes=[[(1, self._side, self._side)]], return_dict=False)[0]
      loss = (velocity.float() - target).square().mean()
      loss.backward()
      optimizer.step()
      optimizer.zero_grad()
      return loss.item()

    return step

  def _torch_models(self) -> tuple[Any, Any, Any]:
    """Language model, connector and MMDiT with our weights."""
    import diffusers
    import torch
    import transformers
    config = self._system.models['mllm'].config
    theirs = qwen2_5_vl.FAMILY.write_config(_nested(config))
    mllm = transformers.Qwen2_5_VLForConditionalGeneration(
        transformers.Qwen2_5_VLConfig.from_dict(theirs))
    denoiser = diffusers.QwenImageTransformer2DModel.from_config(
        qwen_image.FAMILY.write_config(self._system.models['denoiser'].config.__dict__))
    up, down = (self._params['connector'][name]['kernel'].shape for name in ('up', 'down'))
    connector = torch.nn.Sequential(torch.nn.Linear(*up), torch.nn.GELU(), torch.nn.Linear(*down))
    for model, rules, group in ((mllm, qwen2_5_vl.MODULES, 'mllm'),
                                (connector, connectors.MLP.rules, 'connector'),
                                (denoiser, qwen_image.FAMILY.rules, 'denoiser')):
      model.load_state_dict({name: torch.tensor(array) for name, array in engine.to_torch(
          rules, self._params[group]).items()})
    return mllm, connector, denoiser


def _config(flags: argparse.Namespace) -> ConfigDict:
  """The published system with small models; of heads and layers about as many of each as there."""
  width, heads = flags.hidden, flags.hidden // 64
  config = base.get_config()
  config.model.mllm = ConfigDict(section(
      'qwen2_5_vl', image_token_id=IMAGE, video_token_id=6, vision_start_id=7, vision_end_id=8,
      vision=dict(width=width // 2, layers=flags.single, heads=heads // 2, mlp=4 * width // 3,
                  full_attention=(flags.single - 1,), unroll=flags.unroll),
      text=dict(vocab=VOCAB, width=width, layers=flags.single, heads=heads,
                kv_heads=max(heads // 4, 1), mlp=5 * width, rope_sections=(8, 12, 12),
                unroll=flags.unroll)))
  config.model.bridge = ConfigDict(section('learnable_queries', width=width, queries=QUERIES))
  config.model.connector = ConfigDict(section('mlp_connector', width=width, hidden=width // 4,
                                              out_width=width))
  config.model.denoiser = ConfigDict(section(
      'qwen_image', cond_dim=width, width=width, heads=heads, layers=flags.double + flags.single,
      axes_dims=AXES, remat=flags.remat, unroll=flags.unroll))
  config.model.compute_dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  return config


def _drawn(rng: np.random.Generator) -> Callable[[str, Any], np.ndarray]:
  """Random weights without the zeros of the initialisation; norms are near 1."""
  def draw(path, leaf):
    return np.float32(path.endswith('/scale')) + 0.02 * rng.standard_normal(leaf.shape, np.float32)

  return draw


def _batch(flags: argparse.Namespace, system: Any) -> Batch:
  """One sample: words, then an image, then the kontext tokens; a square target."""
  rng = np.random.default_rng(0)
  count, side = SEEN**2, math.isqrt(flags.image)
  tokens = rng.integers(9, VOCAB, (1, flags.text + count + QUERIES)).astype(np.int32)
  tokens[0, 2:2 + count] = IMAGE
  is_image = tokens[0] == IMAGE
  length = tokens.shape[1]
  query = np.where(np.arange(length) < length - QUERIES, -1, np.arange(length) - length + QUERIES)
  ones = np.ones((1, length), np.int32)
  # QwenImageTransformer2DModel counts from the middle of the image; its words go on behind.
  h, w = np.indices((side, side)).reshape(2, -1) - side // 2
  states = side // 2 + np.arange(length)
  prompt = Prompt(
      tokens=tokens, positions=rotary_positions(is_image, [(2 * SEEN, 2 * SEEN)])[None],
      segments=ones, loss_mask=np.zeros((1, length), np.float32),
      image_index=np.where(is_image, np.cumsum(is_image) - 1, -1).astype(np.int32)[None],
      query_index=query.astype(np.int32)[None], shown=ones > 0,
      state_positions=np.repeat(states[:, None], 3, axis=1).astype(np.int32)[None],
      patches=rng.normal(size=(1, 4 * count, 6 * 14**2)).astype(np.float32),
      patch_positions=native_positions(2 * SEEN, 2 * SEEN)[None],
      patch_images=np.ones((1, 4 * count), np.int32), maskable=np.zeros((1, 4 * count), bool))
  image = np.ones((1, flags.image), np.int32)
  visual = Visual(
      rng.normal(size=(1, flags.image, system.layout.latent.channels)).astype(np.float32),
      np.stack([np.zeros_like(h), h, w], axis=-1).astype(np.int32)[None], image, image, image > 0)
  zero = np.zeros((1, 1), np.int32)
  return Batch(visual, prompt, Meta(zero, zero, zero[0]))


def _nested(config: Any) -> dict[str, Any]:
  """The fields of a config, and of the configs in it."""
  return {name: _nested(value) if hasattr(value, '__dataclass_fields__') else value
          for name, value in vars(config).items()}


def _scalar(run: Callable[..., Any], given: Any) -> float:
  return float(jax.tree.leaves(jax.block_until_ready(run(*given)))[0])
