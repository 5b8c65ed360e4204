"""What systems share: modules from a config, latents, prompts with images, guidance branches."""

from collections.abc import Mapping
from collections.abc import Sequence

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Latent
from jaxgen.core.types import Tower
from jaxgen.data import tasks
from jaxgen.data.sample import Sample
from jaxgen.models import registry
from jaxgen.models.autoencoders.patchify import patchify
from jaxgen.models.autoencoders.patchify import unpatchify
from jaxgen.models.denoisers.base import LATENT_PATCH
from jaxgen.objectives import noise


def build(config: ConfigDict, groups: Sequence[str]) -> FrozenDict[str, nn.Module]:
  """The module of each group of ``config.model``, with the group's name, by which profiles and
  counts of FLOPs tell the models apart.

  Raises:
    UserError: a group that the config does not describe, or describes as a model of another group.
  """
  dtype = jnp.dtype(config.model.compute_dtype)
  for group in groups:
    _check_family(config, group)
  return FrozenDict({group: registry.build(config.model[group], dtype).clone(name=group)
                     for group in groups})


def latent_layout(autoencoder: nn.Module, patch: int = LATENT_PATCH) -> Latent:
  """Sizes of the latent tokens of an autoencoder."""
  return Latent(autoencoder.config.factor * patch, autoencoder.config.channels * patch**2)


def encode(autoencoder: nn.Module, params, images: jax.Array, patch: int = LATENT_PATCH
           ) -> jax.Array:
  """f32[n, H, W, 3] in [-1, 1] -> f32[n, h w, C]."""
  latents = autoencoder.apply({'params': params}, images, method='encode')  # [n, H', W', C']
  return patchify(latents, patch).astype(jnp.float32)


def decode(autoencoder: nn.Module, params, tokens: jax.Array, grid: tuple[int, int],
           patch: int = LATENT_PATCH) -> jax.Array:
  """f[n, h w, C] on a grid (h, w) -> f32[n, H, W, 3]."""
  latents = unpatchify(tokens, grid, patch)  # [n, H', W', C']
  return autoencoder.apply({'params': params}, latents, method='decode').astype(jnp.float32)


def embed(mllm: nn.Module, params, batch: Batch, mask_ratio: float = 0.0,
          rng: jax.Array | None = None) -> jax.Array:
  """Embedded prompt with image tokens in their places, some of them hidden.

  Args:
    mllm: a multimodal language model.
    params: of it.
    batch: packed rows.
    mask_ratio: probability that a token of a maskable image is hidden (L089).
    rng: key of the mask; None hides nothing.

  Returns:
    f[B, S, D].
  """
  def run(*args, method):
    return mllm.apply({'params': params}, *args, method=method)

  prompt = batch.prompt
  if prompt.patches.shape[1] == 0:
    return run(prompt.tokens, method='embed_text')
  images = run(prompt, method='image_tokens')  # [B, T, D]
  if rng is not None and mask_ratio:
    # The patches of a token lie in one image, so one patch of each token speaks for it.
    merged = prompt.maskable.shape[1] // images.shape[1]
    images = mask_image_tokens(noise.fold(rng, batch.meta.rows), images,
                               prompt.maskable[:, ::merged], mask_ratio)
  return run(prompt.tokens, images, prompt.image_index, method='embed')


def mask_image_tokens(keys: jax.Array, tokens: jax.Array, may_mask: jax.Array, ratio: float
                      ) -> jax.Array:
  """Masked image modelling (L089): zeroes each image token with probability ``ratio``; the sequence
  keeps its length.

  Args:
    keys: key[B], one per row; the same key gives the same mask.
    tokens: f[B, T, D], image tokens after the projector (A18).
    may_mask: bool[B, T], True for tokens of images that are also the target.
    ratio: probability that a token is masked.

  Returns:
    f[B, T, D], the tokens with masked ones set to 0.
  """
  draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - ratio, may_mask.shape[1:]))
  keep = draw(keys) | ~may_mask  # [B, T]
  return jnp.where(keep[..., None], tokens, 0)


def read_tower(tower: nn.Module, params, prompts: Tower, **options) -> Conditioning:
  """States of a text tower over the prompts of every segment.

  Args:
    tower: a ``CausalLM`` or a ``T5Encoder``.
    params: of it.
    prompts: of the rows, [B, G, T].
    **options: of its ``read``, as ``skip``.

  Returns:
    f[B, G T, D], the states of segment 1 first; those that are not shown have segment 0. What is
    shown without being read is a learned pad.
  """
  rows, groups, length = prompts.tokens.shape
  tokens = prompts.tokens.reshape(rows * groups, length)
  states = tower.apply({'params': params}, tokens, prompts.mask.reshape(tokens.shape),
                       method='read', **options)  # [B G, T, D]
  segments = jnp.where(prompts.shown, jnp.arange(1, groups + 1)[:, None], 0)  # [B, G, T]
  return Conditioning(states.reshape(rows, groups * length, -1),
                      prompts.state_positions.reshape(rows, groups * length, 3),
                      segments.reshape(rows, groups * length),
                      pads=(prompts.shown & ~prompts.mask).reshape(rows, groups * length))


def read_pooled(tower: nn.Module, params, prompts: Tower) -> jax.Array:
  """The pooled vector of a text tower for the prompt of every segment.

  Args:
    tower: a ``ClipText``.
    params: of it.
    prompts: of the rows, [B, G, T].

  Returns:
    f[B, G, D].
  """
  rows, groups, length = prompts.tokens.shape
  _, pooled = tower.apply({'params': params}, prompts.tokens.reshape(rows * groups, length))
  return pooled.reshape(rows, groups, -1)


def text_branches(sample: Sample, scale: float, kind: str, empty: str
                  ) -> list[tuple[float, Sample]]:
  """``u + s (c - u)``, where u is the sample without a part of its condition.

  Args:
    sample: what is asked for.
    scale: s; 1 is no guidance.
    kind: what u lacks, see ``tasks.dropped``.
    empty: the words of u.
  """
  if scale == 1:
    return [(1.0, sample)]
  return [(scale, sample), (1 - scale, tasks.dropped(sample, kind, empty))]


def text_and_image_branches(sample: Sample, text: float, image: float, empty: str
                            ) -> list[tuple[float, Sample]]:
  """``u + s_i (r - u) + s_t (c - r)``: one scale for the images, one for the words (L145).

  r is the sample with the empty prompt in place of its words, u has no images either. Branches of
  weight 0 are left out. Without images r is u, and this is ``text_branches``.

  Args:
    sample: what is asked for, c.
    text: s_t.
    image: s_i; 1 guides by the words alone.
    empty: the words of r and u.
  """
  if not any(part.is_image and not part.is_target for part in sample.parts):
    return text_branches(sample, text, 'all', empty)
  branches = [(text, sample), (image - text, tasks.dropped(sample, 'text', empty)),
              (1 - image, tasks.dropped(sample, 'all', empty))]
  return [(weight, branch) for weight, branch in branches if weight]


def _check_family(config: ConfigDict, group: str) -> None:
  families = [name for name, family in registry.FAMILIES.items() if family.group == group]
  found = config.model.get(group, {}).get('family')
  if found not in families:
    raise user_error(f'config.model.{group}.family', found, f'the system {config.system} needs a '
                     f'model there; use section(family, ...) with one of {", ".join(families)}')


def check_equal(field: str, value: int, other: str, wanted: int) -> None:
  """Raises a ``UserError`` where a size of one model is not that of another."""
  if value != wanted:
    raise user_error(f'config.{field}', value, f'must equal {other} = {wanted}')


def check_connector(models: Mapping[str, nn.Module]) -> None:
  """Raises a ``UserError`` where a connector reads or makes states of other sizes."""
  connector, text = models['connector'], models['mllm'].config.text
  check_equal('model.connector.width', connector.config.width, 'config.model.mllm.text.width',
              text.width)
  if connector.all_layers:
    check_equal('model.connector.layers', connector.config.layers,
                'config.model.mllm.text.layers', text.layers)
  check_equal('model.denoiser.cond_dim', models['denoiser'].config.cond_dim,
              'config.model.connector.out_width', connector.config.out_width)


def check_latents(config: ConfigDict, denoiser: nn.Module, latent: Latent) -> None:
  """Raises a ``UserError`` where a denoiser reads other tokens, or images give no whole ones."""
  check_equal('model.denoiser.in_channels', denoiser.config.in_channels,
              'the channels of a latent token', latent.channels)
  if config.data.image_size % latent.factor:
    raise user_error('config.data.image_size', config.data.image_size,
                     f'must be a multiple of {latent.factor}')
  for section in ('data', 'validation'):
    for name, source in config[section].sources.items():
      if any(side < latent.factor or side % latent.factor for side in source.size):
        raise user_error(f'config.{section}.sources.{name}.size', tuple(source.size), 'both sides '
                         f'must be multiples of {latent.factor}, the pixels along a latent token')
