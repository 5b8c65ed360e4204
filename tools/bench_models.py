"""Times each denoiser and encoder of jaxgen against its PyTorch class, side by side.

Both sides get the same weights (through the conversion tables), inputs and dtype, fp32. Forward
passes, then forward and backward passes by all parameters, alternate, so that a busy machine slows
both alike, and the medians are compared:

  python tools/bench_models.py
  python tools/bench_models.py --models=cosmos,llama --width=256 --layers=2 --side=8 --text=32

Prints a table of ratios; 1.0 or more means that jaxgen is at least as fast. Above it stand the
rates of bare matrix products in XLA and in torch on this machine. Its last column is the share of
XLA's rate that our side reaches, with FLOPs as PyTorch counts them: products and convolutions.
"""

import argparse
import dataclasses
import functools
import math
import statistics
import tempfile
from collections.abc import Callable
from typing import Any

import diffusers
import flax.linen as nn
import jax
import jax.numpy as jnp
import matmul_rate
import numpy as np
import torch
import transformers
from bench_step import denoiser_inputs
from bench_step import make_params
from bench_step import torch_model
from packed_row import frames
from timing import alternate
from timing import machine
from timing import set_malloc
from torch.nn.attention import SDPBackend
from torch.nn.attention import sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from jaxgen.conversion import engine
from jaxgen.conversion.folders import load_folder
from jaxgen.conversion.tables import clip_text
from jaxgen.conversion.tables import cosmos
from jaxgen.conversion.tables import flux
from jaxgen.conversion.tables import hunyuan_video
from jaxgen.conversion.tables import internvl
from jaxgen.conversion.tables import llama
from jaxgen.conversion.tables import qwen2_5_vl
from jaxgen.conversion.tables import qwen3
from jaxgen.conversion.tables import qwen_image
from jaxgen.conversion.tables import sana
from jaxgen.conversion.tables import z_image
from jaxgen.core.types import Prompt
from jaxgen.data.vision import grid_positions
from jaxgen.data.vision import native_positions
from jaxgen.data.vision import rotary_positions
from jaxgen.models import registry

CHANNELS, VOCAB, IMAGE = 64, 4096, 5
HEAD, AXES = 128, (16, 56, 56)  # head channels, and which of them rotate with (t, h, w)


@dataclasses.dataclass(frozen=True)
class Pair:
  """One model on both sides.

  Attributes:
    module: ours.
    params: of it; ``model`` has the same.
    inputs: of our module; arguments of the compiled function, so that nothing is folded into it.
    forward: (params, inputs) -> output of our module.
    model: their module.
    call: (model) -> the same output, as tensors.
  """

  module: nn.Module
  params: Any
  inputs: Any
  forward: Callable[[Any, Any], jax.Array]
  model: torch.nn.Module
  call: Callable[[torch.nn.Module], torch.Tensor]


def main():
  flags = parse_flags()
  set_malloc()
  rates = matmul_rate.measure(flags.side**2 + flags.text, flags.width, jnp.float32)
  print(f'{machine()}, fp32, width {flags.width}, {flags.layers} layers, '
        f'{flags.side**2} image and {flags.text} text tokens, {flags.steps} steps')
  print(*rates, matmul_rate.GOAL, sep='\n', end='\n\n')
  print("| model | pass | torch s | jaxgen s | torch / jaxgen (medians) | (best) | of XLA's rate |")
  print('|---|---|---|---|---|---|---|')
  for name in flags.models.split(',') if flags.models else MODELS:
    pair = MODELS[name](flags)
    for kind, sides in (('forward', forward_sides(pair)), ('with gradients', both_sides(pair))):
      flops = count_flops(sides['torch'])
      report(name, kind, *alternate(sides, flags.steps), flops / rates[0].xla)


def parse_flags(**more: int) -> argparse.Namespace:
  """Sizes of the models, and ``more`` flags with their defaults."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  sizes = dict(width=512, layers=4, side=32, text=128, steps=7, unroll=4)
  for name, default in (sizes | more).items():
    parser.add_argument(f'--{name}', type=int, default=default)
  parser.add_argument('--models', default='', help=f'some of {",".join(MODELS)}; all by default')
  flags = parser.parse_args()
  if flags.width % HEAD or flags.text % 32 or flags.side % 8:
    parser.error(f'--width must be a multiple of {HEAD}, --text of 32 and --side of 8')
  return flags


def count_flops(step: Callable[[], float]) -> int:
  """FLOPs of the products and convolutions of a step of PyTorch, with full attention."""
  # The counter knows the products of plain attention, but not the fused kernel of the CPU, and takes
  # the gradients of a grouped convolution for those of a full one.
  formulas = {torch.ops.aten.convolution_backward: _gradient_flops}
  with FlopCounterMode(display=False, custom_mapping=formulas) as counter, \
      sdpa_kernel(SDPBackend.MATH):
    step()
  return counter.get_total_flops()


def _gradient_flops(gradient, images, kernel, *options, out_shape=None) -> int:
  """FLOPs of a convolution's gradients from shapes: as many as of its output, for each wanted."""
  del images, out_shape
  for_images, for_kernel, _ = options[-1]  # a bias has no products
  taps = math.prod(kernel[1:])  # a kernel has the input channels of its group only
  return 2 * math.prod(gradient) * taps * (for_images + for_kernel)


def report(name, kind, losses, times, least):
  """One row; a difference between the sides is an error, not a time.

  ``least``: seconds that XLA's bare products would need for the same FLOPs.
  """
  ours, theirs = losses['jaxgen'][0], losses['torch'][0]
  assert abs(ours - theirs) <= 1e-3 * abs(theirs), (name, kind, ours, theirs)
  medians = {side: statistics.median(seconds) for side, seconds in times.items()}
  best = {side: min(seconds) for side, seconds in times.items()}
  print(f'| {name} | {kind} | {medians["torch"]:.3f} | {medians["jaxgen"]:.3f} '
        f'| {medians["torch"] / medians["jaxgen"]:.2f} | {best["torch"] / best["jaxgen"]:.2f} '
        f'| {100 * least / medians["jaxgen"]:.0f} % |', flush=True)


def forward_sides(pair: Pair) -> dict[str, Callable[[], float]]:
  """Functions that run one forward pass and return the mean square of the output."""
  ours = jax.jit(lambda *given: jnp.mean(jnp.square(pair.forward(*given))))

  def theirs():
    with torch.no_grad():
      return pair.call(pair.model).square().mean().item()

  return {'jaxgen': lambda: float(ours(pair.params, pair.inputs)), 'torch': theirs}


def both_sides(pair: Pair) -> dict[str, Callable[[], float]]:
  """The same with the gradients of that mean square by all parameters."""
  both = jax.jit(jax.value_and_grad(
      lambda *given: jnp.mean(jnp.square(pair.forward(*given)))))

  def ours():
    return float(jax.block_until_ready(both(pair.params, pair.inputs))[0])

  def theirs():
    loss = pair.call(pair.model).square().mean()
    loss.backward()
    pair.model.zero_grad()
    return loss.item()

  return {'jaxgen': ours, 'torch': theirs}


def denoiser(table, kind, call, flags, extra=None, **fields) -> Pair:
  """A denoiser with random weights; ``call(model, batch of tensors, flags)`` runs theirs.

  ``extra`` replaces or adds arrays of ``token_batch``.
  """
  section = registry.section(table.FAMILY.name, unroll=flags.unroll, **fields)
  module = registry.build(section, jnp.float32)
  params = make_params(module)
  model = torch_model(table.FAMILY, kind, module, params)
  batch = token_batch(module.config, flags) | (extra or {})
  tensors = {name: torch.tensor(array) for name, array in batch.items()}
  params, inputs = jax.tree.map(jnp.asarray, (params, batch))

  def forward(params, batch):
    return module.apply({'params': params}, *denoiser_inputs(**batch))

  return Pair(module, params, inputs, forward, model, lambda model: call(model, tensors, flags))


def token_batch(config, flags) -> dict[str, np.ndarray]:
  """One square image and its prompt, in one row of one segment."""
  rng = np.random.default_rng(1)
  length = flags.side**2
  h, w = np.indices((flags.side, flags.side)).reshape(2, -1)
  positions = np.stack([np.zeros_like(h), h, w], axis=-1)
  return dict(
      latents=rng.normal(size=(1, length, config.in_channels)).astype(np.float32),
      t=np.array([[0.3]], np.float32), positions=positions[None].astype(np.int32),
      segments=np.ones((1, length), np.int32),
      states=rng.normal(size=(1, flags.text, config.cond_dim)).astype(np.float32),
      state_positions=np.zeros((1, flags.text, 3), np.int32),
      state_segments=np.ones((1, flags.text), np.int32))


def square(batch, flags):
  """The image as one frame, f[1, C / 4, 1, 2 side, 2 side]."""
  return frames(batch['latents'], flags.side, flags.side)


def make_flux(flags):
  def call(model, batch, flags):
    return model(
        hidden_states=batch['latents'], encoder_hidden_states=batch['states'],
        pooled_projections=batch['pooled'][:, 0], timestep=batch['t'][:, 0],
        img_ids=batch['positions'][0].float(), txt_ids=batch['state_positions'][0].float(),
        return_dict=False)[0]

  extra = dict(pooled=np.ones((1, 1, 96), np.float32))
  return denoiser(
      flux, diffusers.FluxTransformer2DModel, call, flags, extra,
      in_channels=CHANNELS, cond_dim=flags.width, pooled_dim=96, width=flags.width,
      heads=flags.width // HEAD, double_blocks=flags.layers // 2, single_blocks=flags.layers,
      axes_dims=AXES)


def make_hunyuan_video(flags):
  def call(model, batch, flags):
    return model(
        hidden_states=square(batch, flags), timestep=1000 * batch['t'][:, 0],
        encoder_hidden_states=batch['states'], encoder_attention_mask=batch['state_segments'],
        pooled_projections=batch['pooled'][:, 0], guidance=1000 * batch['guidance'][:, 0],
        return_dict=False)[0]

  extra = dict(pooled=np.ones((1, 1, 96), np.float32), guidance=np.full((1, 1), 6, np.float32))
  return denoiser(
      hunyuan_video, diffusers.HunyuanVideoTransformer3DModel, call, flags, extra,
      in_channels=CHANNELS, out_channels=CHANNELS, cond_dim=flags.width, pooled_dim=96,
      width=flags.width, heads=flags.width // HEAD, double_blocks=flags.layers // 2,
      single_blocks=flags.layers, axes_dims=AXES)


def make_qwen_image(flags):
  def call(model, batch, flags):
    return model(
        hidden_states=batch['latents'], encoder_hidden_states=batch['states'],
        encoder_hidden_states_mask=batch['state_segments'], timestep=batch['t'][:, 0],
        img_shapes=[[(1, flags.side, flags.side)]], return_dict=False)[0]

  half = flags.side // 2
  h, w = np.indices((flags.side, flags.side)).reshape(2, -1) - half
  places = np.stack([np.zeros_like(h), h, w], axis=-1)[None].astype(np.int32)
  text = np.repeat(half + np.arange(flags.text)[:, None], 3, axis=1)[None].astype(np.int32)
  return denoiser(
      qwen_image, diffusers.QwenImageTransformer2DModel, call, flags,
      dict(positions=places, state_positions=text), in_channels=CHANNELS, out_channels=CHANNELS,
      cond_dim=flags.width, width=flags.width, heads=flags.width // HEAD, layers=flags.layers,
      axes_dims=AXES)


def make_z_image(flags):
  def call(model, batch, flags):
    image, = model([square(batch, flags)[0]], 1 - batch['t'][0], [batch['states'][0]],
                   return_dict=False)[0]
    return image

  h, w = np.indices((flags.side, flags.side)).reshape(2, -1)
  places = np.stack([np.full_like(h, flags.text + 1), h, w], axis=-1)[None].astype(np.int32)
  text = np.zeros((1, flags.text, 3), np.int32)
  text[..., 0] = 1 + np.arange(flags.text)
  return denoiser(
      z_image, diffusers.ZImageTransformer2DModel, call, flags,
      dict(positions=places, state_positions=text), in_channels=CHANNELS, cond_dim=flags.width,
      width=flags.width, heads=flags.width // HEAD, layers=flags.layers,
      refiner_layers=1, axes_dims=(32, 48, 48))


def make_cosmos(flags):
  def call(model, batch, flags):
    video = square(batch, flags)
    return model(
        hidden_states=video, timestep=batch['t'][:, 0], encoder_hidden_states=batch['states'],
        condition_mask=torch.zeros_like(video[:, :1]), return_dict=False)[0]

  return denoiser(
      cosmos, diffusers.CosmosTransformer3DModel, call, flags, in_channels=CHANNELS,
      cond_dim=4 * flags.width, text_dim=flags.width, width=flags.width,
      heads=flags.width // HEAD, layers=flags.layers, padding_mask=False)


def make_sana(flags):
  def call(model, batch, flags):
    image = batch['latents'].reshape(1, flags.side, flags.side, -1).permute(0, 3, 1, 2)
    return model(
        hidden_states=image, encoder_hidden_states=batch['states'],
        timestep=1000 * batch['t'][:, 0], encoder_attention_mask=batch['state_segments'],
        return_dict=False)[0]

  return denoiser(
      sana, diffusers.SanaTransformer2DModel, call, flags, in_channels=32, cond_dim=flags.width,
      width=flags.width, heads=flags.width // 32, cross_heads=flags.width // HEAD,
      layers=flags.layers)


def encoder(flags, table, model, inputs, forward, call) -> Pair:
  """An encoder with the weights of ``model``; ``forward(apply, *inputs)`` runs ours."""
  torch.manual_seed(0)
  with tempfile.TemporaryDirectory() as folder:
    model.eval().save_pretrained(folder)
    config, tensors = load_folder(folder)
    module = registry.build(unrolled(registry.section(
        **table.FAMILY.read_config(config, tensors, folder)), flags.unroll), jnp.float32)
    params = engine.from_torch(table.FAMILY.rules, tensors, registry.param_shapes(module))
    params = jax.tree.map(jnp.array, params)

  def ours(params, inputs):
    return forward(lambda *given, method=None: module.apply(
        {'params': params}, *given, method=method), *inputs)

  return Pair(module, params, jax.tree.map(jnp.asarray, inputs), ours, model, call)


def unrolled(section: dict[str, Any], blocks: int) -> dict[str, Any]:
  """The section with so many blocks per scan iteration, in each of its stacks."""
  nested = {name: unrolled(value, blocks) for name, value in section.items()
            if isinstance(value, dict)}
  return section | nested | ({'unroll': blocks} if 'unroll' in section else {})


def token_ids(length):
  return np.random.default_rng(0).integers(9, VOCAB - 1, (1, length))


def language(flags, **sizes):
  """Fields of a decoder that transformers' configs share."""
  return dict(
      vocab_size=VOCAB, hidden_size=flags.width, intermediate_size=3 * flags.width,
      num_hidden_layers=flags.layers, num_attention_heads=flags.width // 64,
      num_key_value_heads=flags.width // HEAD, bos_token_id=1, eos_token_id=2) | sizes


def make_tower(table, kind, flags):
  config = kind.config_class(
      **language(flags, head_dim=64), rope_parameters=dict(rope_type='default', rope_theta=5e5))
  tokens = token_ids(flags.side**2)
  positions = np.arange(tokens.shape[1], dtype=np.int32)[None]

  def forward(apply, tokens, positions, segments):
    return apply(apply(tokens, method='embed'), positions, segments, method='decode')

  inputs = tokens.astype(np.int32), positions, np.ones_like(positions)
  return encoder(flags, table, kind(config), inputs, forward,
                 lambda model: model(input_ids=torch.tensor(tokens)).last_hidden_state)


def make_clip_text(flags):
  config = transformers.CLIPTextConfig(
      vocab_size=VOCAB, hidden_size=flags.width, intermediate_size=4 * flags.width,
      num_hidden_layers=flags.layers, num_attention_heads=flags.width // 64,
      max_position_embeddings=flags.text, bos_token_id=1, eos_token_id=VOCAB - 1)
  tokens = token_ids(flags.text)
  tokens[0, -1] = VOCAB - 1
  return encoder(
      flags, clip_text, transformers.CLIPTextModel(config), [tokens.astype(np.int32)],
      lambda apply, tokens: apply(tokens)[0],
      lambda model: model(torch.tensor(tokens)).last_hidden_state)


def make_internvl(flags):
  patch, size = 14, 14 * flags.side
  count = flags.side**2 // 4
  config = transformers.InternVLConfig(
      vision_config=dict(
          hidden_size=flags.width, num_hidden_layers=flags.layers,
          num_attention_heads=flags.width // 64, intermediate_size=4 * flags.width,
          image_size=[size, size], patch_size=[patch, patch], attention_bias=True),
      text_config=language(flags, model_type='qwen2', tie_word_embeddings=True,
                           rope_parameters=dict(rope_type='default', rope_theta=1e6)),
      image_token_id=IMAGE, image_seq_length=count, tie_word_embeddings=True)
  tokens = token_ids(count + flags.text)
  tokens[0, 2:2 + count] = IMAGE
  pixels = np.random.default_rng(1).normal(size=(1, 3, size, size)).astype(np.float32)
  patches = pixels.reshape(1, 3, flags.side, patch, flags.side, patch)
  patches = patches.transpose(0, 2, 4, 1, 3, 5).reshape(1, flags.side**2, -1)
  places = np.repeat(np.arange(tokens.shape[1])[:, None], 3, axis=1)
  prompt = prompt_of(tokens, places, patches, grid_positions(flags.side, flags.side))
  return encoder(
      flags, internvl, transformers.InternVLForConditionalGeneration(config), [prompt],
      lambda apply, prompt: apply(prompt),
      lambda model: model(input_ids=torch.tensor(tokens), pixel_values=torch.tensor(pixels)).logits)


def make_qwen2_5_vl(flags):
  grid, count = (flags.side, flags.side), flags.side**2 // 4
  config = transformers.Qwen2_5_VLConfig(
      vision_config=dict(
          depth=flags.layers, hidden_size=flags.width, intermediate_size=3 * flags.width,
          num_heads=flags.width // 64, out_hidden_size=flags.width, window_size=112,
          fullatt_block_indexes=[flags.layers - 1]),
      text_config=language(flags, rope_parameters=dict(
          rope_type='default', rope_theta=1e6, mrope_section=[8, 12, 12])),
      image_token_id=IMAGE, video_token_id=6, vision_start_token_id=7, vision_end_token_id=8,
      tie_word_embeddings=True)
  tokens = token_ids(count + flags.text)
  tokens[0, 2:2 + count] = IMAGE
  patches = np.random.default_rng(1).normal(size=(flags.side**2, 6 * 14**2)).astype(np.float32)
  prompt = prompt_of(tokens, rotary_positions(tokens[0] == IMAGE, [grid]), patches[None],
                     native_positions(*grid))
  return encoder(
      flags, qwen2_5_vl, transformers.Qwen2_5_VLForConditionalGeneration(config), [prompt],
      lambda apply, prompt: apply(prompt),
      lambda model: model(
          input_ids=torch.tensor(tokens), pixel_values=torch.tensor(patches),
          image_grid_thw=torch.tensor([(1, *grid)]),
          mm_token_type_ids=torch.tensor(tokens == IMAGE).int()).logits)


def prompt_of(tokens, positions, patches, patch_positions) -> Prompt:
  """A row of one sample with one image, whose tokens are those equal to ``IMAGE``.

  Args:
    tokens: i[1, S].
    positions: i[S, 3].
    patches: f[1, P, Dp].
    patch_positions: i[P, 2].
  """
  tokens, is_image = tokens.astype(np.int32), tokens == IMAGE
  ones = np.ones(patches.shape[:2], np.int32)
  places = positions[None].astype(np.int32)
  return Prompt(
      tokens=tokens, positions=places, segments=np.ones_like(tokens),
      loss_mask=np.zeros(tokens.shape, np.float32),
      image_index=np.where(is_image, np.cumsum(is_image, axis=1) - 1, -1).astype(np.int32),
      query_index=np.full_like(tokens, -1), shown=np.ones(tokens.shape, bool),
      state_positions=places, patches=patches,
      patch_positions=patch_positions[None].astype(np.int32), patch_images=ones,
      maskable=ones == 0)


MODELS = {
    'flux': make_flux,
    'hunyuan_video': make_hunyuan_video,
    'qwen_image': make_qwen_image,
    'z_image': make_z_image,
    'cosmos': make_cosmos,
    'sana': make_sana,
    'llama': functools.partial(make_tower, llama, transformers.LlamaModel),
    'qwen3': functools.partial(make_tower, qwen3, transformers.Qwen3Model),
    'clip_text': make_clip_text,
    'internvl': make_internvl,
    'qwen2_5_vl': make_qwen2_5_vl,
}

if __name__ == '__main__':
  main()
