"""IOMM: a frozen InternVL, the residual query adapter, and a FLUX-shaped MMDiT or Z-Image (XL).

Image-only samples condition on themselves: the prompt asks for an identical image and shows it,
with most of its tokens masked (paper section 3). Pairs condition on their caption. Both go
through the same frozen language model; the adapter's queries are appended to its input.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Layout
from jaxgen.core.types import Params
from jaxgen.core.types import Prompt
from jaxgen.core.types import Visual
from jaxgen.models import registry as models
from jaxgen.models.autoencoders.patchify import patchify
from jaxgen.models.autoencoders.patchify import unpatchify
from jaxgen.models.bridges.residual_queries import query_segment_ids
from jaxgen.models.denoisers.hunyuan_video import HunyuanVideo
from jaxgen.models.denoisers.mmdit import MMDiT
from jaxgen.models.denoisers.z_image import ZImage
from jaxgen.objectives.masking import mask_image_tokens
from jaxgen.systems.base import System

LATENT_PATCH = 2  # FLUX groups 2 x 2 latent pixels into a token
CONDITIONING = ('all', 'queries_only')


@dataclasses.dataclass(frozen=True)
class IOMM(System):
  """The composition; see ``System`` for the methods.

  Attributes:
    mllm, bridge, denoiser, autoencoder: Flax modules.
    mask_ratio: probability that a token of a self-conditioning image is hidden (L091, A18).
    queries_only: condition on the adapter's positions alone, the MetaQuery baseline (A17).
    segments_per_row: G, samples that a row packs at the most.
  """

  mllm: nn.Module
  bridge: nn.Module
  denoiser: nn.Module
  autoencoder: nn.Module
  mask_ratio: float
  queries_only: bool
  segments_per_row: int

  @classmethod
  def from_config(cls, config: ConfigDict) -> 'IOMM':
    """Builds the modules and checks that their sizes fit each other.

    Raises:
      UserError: naming the field of the config.
    """
    model, dtype = config.model, jnp.dtype(config.model.compute_dtype)
    if model.conditioning not in CONDITIONING:
      raise user_error('config.model.conditioning', model.conditioning,
                       f'must be one of {CONDITIONING}')
    system = cls(
        mllm=models.build(model.mllm, dtype),
        bridge=models.build(model.bridge, dtype),
        denoiser=models.build(model.denoiser, dtype),
        autoencoder=models.build(model.autoencoder, dtype),
        mask_ratio=model.mask_ratio,
        queries_only=model.conditioning == 'queries_only',
        segments_per_row=config.data.segments_per_row)
    system._check(config)
    return system

  @property
  def layout(self) -> Layout:
    """Sizes that the data pipeline needs."""
    autoencoder, vision = self.autoencoder.config, self.mllm.config.vision
    return Layout(
        latent_factor=autoencoder.factor * LATENT_PATCH,
        latent_channels=autoencoder.channels * LATENT_PATCH**2,
        vision_patch=vision.patch_size,
        vision_tokens=self.mllm.config.tokens_per_image)

  @property
  def _in_sequence(self) -> bool:
    """True where the denoiser numbers text and image one after the other."""
    return isinstance(self.denoiser, ZImage)

  def initialisers(self):
    return {
        'mllm': functools.partial(models.init, self.mllm),
        'bridge': functools.partial(models.init, self.bridge),
        'denoiser': functools.partial(models.init, self.denoiser),
        'autoencoder': functools.partial(models.init, self.autoencoder),
    }

  def condition(self, params: Params, prompt: Prompt,
                rng: jax.Array | None = None) -> Conditioning:
    """States of the frozen MLLM over prompt and queries (L087, L088).

    Args:
      params: with groups ``mllm`` and ``bridge``.
      prompt: packed prompts.
      rng: key of the mask; None hides nothing.

    Returns:
      f[B, S + G Q, D] (f[B, G Q, D] with ``queries_only``), at position 0 as FLUX has
      its text, or at (1, 0, 0), (2, 0, 0), ... as Z-Image has it.
    """
    embeddings = self._embed(params['mllm'], prompt, rng)
    groups, (rows, length, _) = self.segments_per_row, embeddings.shape
    queries = self.bridge.apply({'params': params['bridge']}, embeddings, prompt.segments, groups)
    count = queries.shape[1] // groups
    lengths = jnp.sum(prompt.segments[:, None] == jnp.arange(1, groups + 1)[:, None], axis=-1)
    present = jnp.repeat(lengths > 0, count, axis=1)  # [B, G Q]
    segments = jnp.concatenate(
        [prompt.segments, query_segment_ids(rows, groups, count) * present], axis=1)
    # The queries stand behind their own segment's last token, wherever they lie in the row.
    behind = jnp.repeat(lengths, count, axis=1) + jnp.tile(jnp.arange(count), groups)
    positions = jnp.concatenate([prompt.positions[..., 0], behind], axis=1)
    states = self._mllm(params['mllm'], jnp.concatenate([embeddings, queries], axis=1),
                        positions, segments, method='decode')
    if self.queries_only:
      states, segments, positions = (x[:, length:] for x in (states, segments, positions))
    first = jnp.where(segments > 0, positions + 1, 0) if self._in_sequence else 0 * segments
    places = jnp.stack([first, 0 * first, 0 * first], axis=-1)
    return Conditioning(states, places, segments)

  def denoise(self, params: Params, x_t: jax.Array, t: jax.Array, visual: Visual,
              conditioning: Conditioning) -> jax.Array:
    positions = visual.positions
    if self._in_sequence:  # the image stands behind the last state of its segment
      own = visual.segments[:, :, None] == conditioning.segments[:, None]  # [B, L, S]
      last = jnp.max(jnp.where(own, conditioning.positions[:, None, :, 0], 0), axis=-1)
      positions = positions.at[..., 0].add(last + 1)
    return self.denoiser.apply(
        {'params': params['denoiser']}, x_t, t, positions, visual.segments,
        conditioning.states, conditioning.positions, conditioning.segments, **self._pooled(t))

  def next_token_logits(self, params: Params, prompt: Prompt) -> jax.Array:
    hidden = self._mllm(params['mllm'], self._embed(params['mllm'], prompt, None),
                        prompt.positions[..., 0], prompt.segments, method='decode')
    return self._mllm(params['mllm'], hidden, method='logits')

  def encode(self, params: Params, images: jax.Array) -> jax.Array:
    latents = self._autoencoder(params, images, method='encode')
    return patchify(latents, LATENT_PATCH).astype(jnp.float32)

  def decode(self, params: Params, tokens: jax.Array, grid: tuple[int, int]) -> jax.Array:
    latents = unpatchify(tokens, grid, LATENT_PATCH)
    return self._autoencoder(params, latents, method='decode').astype(jnp.float32)

  def _embed(self, mllm: Params, prompt: Prompt, rng: jax.Array | None) -> jax.Array:
    """f[B, S, D]: token embeddings with the (partly hidden) image tokens in their places."""
    if prompt.patches.shape[1] == 0:
      return self._mllm(mllm, prompt.tokens, method='embed_text')
    tokens = self._mllm(mllm, prompt.patches, method='image_tokens')
    if rng is not None:
      # The patches of a token lie in one image, so one patch of each image speaks for it.
      images = tokens.shape[1] // self.layout.vision_tokens
      own = prompt.patch_is_target.reshape(tokens.shape[0], images, -1)[..., 0]
      tokens = mask_image_tokens(rng, tokens, jnp.repeat(own, self.layout.vision_tokens, axis=1),
                                 self.mask_ratio)
    return self._mllm(mllm, prompt.tokens, tokens, prompt.image_index, method='embed')

  def _pooled(self, t: jax.Array) -> dict[str, jax.Array]:
    """Zeros for denoisers that take a pooled prompt vector too: the MLLM has none."""
    if not isinstance(self.denoiser, (MMDiT, HunyuanVideo)) or not self.denoiser.config.pooled_dim:
      return {}
    return {'pooled': jnp.zeros((*t.shape, self.denoiser.config.pooled_dim), jnp.float32)}

  def _mllm(self, params: Params, *args, method: str) -> jax.Array:
    return self.mllm.apply({'params': params}, *args, method=method)

  def _autoencoder(self, params: Params, x: jax.Array, method: str) -> jax.Array:
    return self.autoencoder.apply({'params': params.get('autoencoder', {})}, x, method=method)

  def _check(self, config: ConfigDict) -> None:
    width, layout = self.mllm.config.text.width, self.layout
    if self.bridge.config.width != width:
      raise user_error('config.model.bridge.width', self.bridge.config.width,
                       f'must equal config.model.mllm.text.width = {width}')
    if self.denoiser.config.cond_dim != width:
      raise user_error('config.model.denoiser.cond_dim', self.denoiser.config.cond_dim,
                       f'must equal config.model.mllm.text.width = {width}')
    if self.denoiser.config.in_channels != layout.latent_channels:
      raise user_error('config.model.denoiser.in_channels', self.denoiser.config.in_channels,
                       f'must equal the autoencoder\'s channels x {LATENT_PATCH**2} '
                       f'= {layout.latent_channels}')
    if self.mllm.config.vision.image_size != config.data.vision_size:
      raise user_error('config.data.vision_size', config.data.vision_size,
                       'must equal config.model.mllm.vision.image_size = '
                       f'{self.mllm.config.vision.image_size}')
    if config.data.image_size % layout.latent_factor:
      raise user_error('config.data.image_size', config.data.image_size,
                       f'must be a multiple of {layout.latent_factor}')
