"""The System: all that training, sampling and evaluation know of a model."""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
from flax.core import FrozenDict
from ml_collections import ConfigDict

from jaxgen.core.types import Batch
from jaxgen.core.types import Conditioning
from jaxgen.core.types import Layout
from jaxgen.core.types import Params
from jaxgen.core.types import Visual
from jaxgen.data.sample import Sample
from jaxgen.models import registry
from jaxgen.models.layers import lora
from jaxgen.systems import parts

Branches = list[tuple[float, Sample]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class System(abc.ABC):
  """A frozen object whose methods are pure functions of the parameters handed to them.

  ``params`` has one entry for each group of ``models``; a method needs only the groups that
  ``reads`` names for it.

  Attributes:
    models: group of parameters -> Flax module.
    layout: what the data pipeline must know of the models.
    adapters: low-rank adapters beside kernels of these groups.
    reads: method -> the groups that it reads.
    presets: name -> fields of the config, as 'sampling.steps', that published results were drawn
      with.
  """

  models: FrozenDict[str, nn.Module]
  layout: Layout
  adapters: tuple[lora.LoRA, ...] = ()
  reads: ClassVar[Mapping[str, tuple[str, ...]]]
  presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

  @classmethod
  @abc.abstractmethod
  def from_config(cls, config: ConfigDict) -> 'System':
    """Builds the modules and checks that their sizes fit each other.

    Raises:
      UserError: naming the field of the config.
    """

  @abc.abstractmethod
  def condition(self, params: Params, batch: Batch, rng: jax.Array | None = None) -> Conditioning:
    """The conditioning of a batch; ``rng`` None is inference, where nothing is masked."""

  def denoise(self, params: Params, x_t: jax.Array, t: jax.Array, visual: Visual,
              conditioning: Conditioning) -> jax.Array:
    """Velocity f32[B, L, C] at x_t f[B, L, C] and t f32[B, G]."""
    return self._run('denoiser', params, x_t, t, visual, conditioning)

  def encode(self, params: Params, images: jax.Array) -> jax.Array:
    """Images f32[n, H, W, 3] in [-1, 1] to clean latent tokens f32[n, h w, C]."""
    return parts.encode(self.models['autoencoder'], params.get('autoencoder', {}), images)

  def decode(self, params: Params, tokens: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Latent tokens f[n, h w, C] on a grid (h, w) to images f32[n, H, W, 3]."""
    return parts.decode(self.models['autoencoder'], params.get('autoencoder', {}), tokens, grid)

  @abc.abstractmethod
  def branches(self, sample: Sample, scales: Mapping[str, float]) -> Branches:
    """Guidance as a weighted sum of velocities: ``[(weight, rewritten sample)]``.

    Args:
      sample: what is asked for.
      scales: of ``config.sampling``: ``text`` and, where there are references, ``image``.
    """

  @property
  def distilled(self) -> bool:
    """Whether the denoiser is told the guidance scale of each request, in place of branches."""
    return False

  @property
  def groups(self) -> tuple[str, ...]:
    """Names of the parameter groups, sorted."""
    return tuple(sorted(self.models))

  def init(self, rng: jax.Array, groups: Sequence[str] | None = None) -> Params:
    """Random fp32 parameters of the groups (default: all).

    A group's values do not depend on which other groups are made.
    """
    params = {}
    for index, group in enumerate(self.groups):
      if groups is None or group in groups:
        made = registry.init(self.models[group], jax.random.fold_in(rng, index))
        params[group] = made.get('params', {})
    return nn.meta.unbox(params | lora.attach(params, rng, self.adapters))

  def shapes(self, groups: Sequence[str] | None = None) -> Params:
    """``jax.ShapeDtypeStruct`` of every parameter, without allocating any."""
    return nn.meta.unbox(self._boxed_shapes(groups))

  def axes(self, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """The logical axis names of every parameter, as tuples, in a tree like ``init``'s."""
    return registry.axes_of(self._boxed_shapes(groups))

  def _boxed_shapes(self, groups: Sequence[str] | None) -> Params:
    params = {group: registry.boxed_shapes(self.models[group]) for group in self.groups
              if groups is None or group in groups}
    return params | jax.eval_shape(
        lambda rng, params: lora.attach(params, rng, self.adapters), jax.random.key(0), params)

  def _run(self, group: str, params: Params, *args: Any, method: str | None = None) -> Any:
    """Applies the module of a group with its parameters; a module may have none."""
    return self.models[group].apply({'params': params.get(group, {})}, *args, method=method)
