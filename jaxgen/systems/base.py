"""The System: all that training, sampling and evaluation know of a model."""

import abc
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxgen.core import trees
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Layout
from jaxgen.core.types import Params
from jaxgen.core.types import Prompt
from jaxgen.core.types import Visual
from jaxgen.models.layers import lora


@dataclasses.dataclass(frozen=True, kw_only=True)
class System(abc.ABC):
  """A frozen object whose methods are pure functions of the parameters handed to them.

  ``params`` has one entry per group (``mllm``, ``bridge``, ``denoiser``, ``autoencoder``); a
  method needs only the groups that it reads.

  Attributes:
    adapters: low-rank adapters beside kernels of these groups.
  """

  adapters: tuple[lora.LoRA, ...] = ()

  @property
  @abc.abstractmethod
  def layout(self) -> Layout:
    """Sizes that the data pipeline needs."""

  @abc.abstractmethod
  def initialisers(self) -> dict[str, Callable[[jax.Array], Any]]:
    """``{group: function(rng) -> boxed Flax variables}``."""

  @abc.abstractmethod
  def condition(self, params: Params, prompt: Prompt,
                rng: jax.Array | None = None) -> Conditioning:
    """What the denoiser is told; ``rng`` None is inference, where nothing is masked."""

  @abc.abstractmethod
  def denoise(self, params: Params, x_t: jax.Array, t: jax.Array, visual: Visual,
              conditioning: Conditioning) -> jax.Array:
    """Velocity f32[B, L, C] at x_t f[B, L, C] and t f32[B, G]."""

  @abc.abstractmethod
  def next_token_logits(self, params: Params, prompt: Prompt) -> jax.Array:
    """f32[B, S, V]."""

  @abc.abstractmethod
  def encode(self, params: Params, images: jax.Array) -> jax.Array:
    """Images f32[n, H, W, 3] in [-1, 1] to clean latent tokens f32[n, h w, C]."""

  @abc.abstractmethod
  def decode(self, params: Params, tokens: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Latent tokens f[n, h w, C] on a grid (h, w) to images f32[n, H, W, 3]."""

  @property
  def groups(self) -> tuple[str, ...]:
    """Names of the parameter groups, sorted."""
    return tuple(sorted(self.initialisers()))

  def init(self, rng: jax.Array, groups: Sequence[str] | None = None) -> Params:
    """Random fp32 parameters of the groups (default: all).

    A group's values do not depend on which other groups are made.
    """
    return nn.meta.unbox(self._boxed(rng, groups))

  def shapes(self, groups: Sequence[str] | None = None) -> Params:
    """``jax.ShapeDtypeStruct`` of every parameter, without allocating any."""
    return jax.eval_shape(lambda rng: self.init(rng, groups), jax.random.key(0))

  def axes(self, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """The logical axis names of every parameter, as tuples, in a tree like ``init``'s."""
    boxed = jax.eval_shape(lambda rng: self._boxed(rng, groups), jax.random.key(0))
    return trees.map_named(lambda _, spec: tuple(spec), nn.get_partition_spec(boxed))

  def _boxed(self, rng: jax.Array, groups: Sequence[str] | None) -> Params:
    params = {}
    for index, (group, initialise) in enumerate(sorted(self.initialisers().items())):
      if groups is None or group in groups:
        params[group] = initialise(jax.random.fold_in(rng, index)).get('params', {})
    return params | lora.attach(params, rng, self.adapters)
