"""Adapters merged into their kernels while weights are loaded, shard by shard.

A next stage then starts from plain kernels, without the adapters that the stage before trained
(Query-Kontext, stage 2: L061). Nothing is read before a parameter is placed on the devices, and
a device computes only its own part of a kernel.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxgen.checkpoints.adopt import Changes
from jaxgen.checkpoints.adopt import way
from jaxgen.checkpoints.weights import Stored
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.models.layers import lora

_LEAVES = ('a', 'b', 'alpha')


def merge_on_load(found: Params, changes: Changes, where: str) -> tuple[Params, list[str]]:
  """Replaces kernels by ``Merged`` ones where a rule says to merge their adapters.

  Args:
    found: tree of ``Stored``, ``{group: ...}``.
    changes: ``config.init_from.changes``.
    where: the weights, named in errors.

  Returns:
    ``(tree without the adapters that were merged, paths of those adapters' modules)``. Adapters
    that no 'merge' rule names stay in the tree.

  Raises:
    UserError: a 'merge' rule that names something else than adapters, or part of one.
  """
  flat = trees.flatten(found)
  named = [path for path in flat if way(path, changes) == 'merge']
  modules = sorted({path.rpartition('/lora/')[0] for path in named if lora.is_adapter(path)})
  leaves = {module: [f'{module}/lora/{name}' for name in _LEAVES] for module in modules}
  if others := sorted({*named} - {path for paths in leaves.values() for path in paths}):
    raise user_error(where, others[0], "is no adapter, but a rule of config.init_from.changes says "
                     r"'merge'; name adapters alone, as ('mllm/.*/lora/.*', 'merge')")
  for module, paths in leaves.items():
    if left := sorted({*paths} - {*named}):
      raise user_error(where, left[0], "has no 'merge' rule, but the rest of its adapter has one; "
                       'give one regex for all of it, ending in /lora/.*')
    parts = [flat.pop(path) for path in paths]
    flat[f'{module}/kernel'] = Merged(flat[f'{module}/kernel'], *parts)
  return trees.unflatten(flat), modules


@dataclasses.dataclass(frozen=True)
class Merged(Stored):
  """A kernel f[layers?, *inputs, *features] with the product of its adapter added.

  The sum is fp32 and rounded once, to the dtype that is asked for.

  Attributes:
    kernel: as it is stored.
    a: f[layers?, *inputs, r].
    b: f[layers?, r, *features].
    alpha: f[layers?].
  """

  kernel: Stored
  a: Stored
  b: Stored
  alpha: Stored

  @property
  def shape(self) -> tuple[int, ...]:
    return self.kernel.shape

  @property
  def dtype(self) -> np.dtype:
    return self.kernel.dtype

  def onto(self, sharding: NamedSharding, dtype: np.dtype) -> jax.Array:
    layers, inputs = len(self.alpha.shape), len(self.a.shape) - 1
    spec = (*sharding.spec, *[None] * (len(self.shape) - len(sharding.spec)))
    # Each half is cut as the kernel's dims that it has, so that shards multiply without the others.
    specs = [spec, (*spec[:inputs], None), (*spec[:layers], None, *spec[inputs:]), spec[:layers]]
    specs = tuple(PartitionSpec(*each) for each in specs)
    parts = [part.onto(NamedSharding(sharding.mesh, spec), part.dtype) for part, spec in zip(
        (self.kernel, self.a, self.b, self.alpha), specs, strict=True)]
    return _adder(sharding.mesh, specs, np.dtype(dtype))(*parts)

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    parts = [np.asarray(part) for part in (self.kernel, self.a, self.b, self.alpha)]
    return np.asarray(_add(*parts, dtype=np.dtype(dtype or self.dtype)))


@functools.cache
def _adder(mesh: Mesh, specs: tuple[PartitionSpec, ...], dtype: np.dtype
           ) -> Callable[..., jax.Array]:
  """The program for kernels of one sharding: every device adds its shards, nothing is sent."""
  return jax.jit(jax.shard_map(functools.partial(_add, dtype=dtype), mesh=mesh, in_specs=specs,
                               out_specs=specs[0]))


def _add(kernel: jax.Array, a: jax.Array, b: jax.Array, alpha: jax.Array, *, dtype: np.dtype
         ) -> jax.Array:
  """A kernel, or its shard, in ``dtype`` with the adapter's product; one layer after another."""
  if alpha.ndim:  # fp32 is held of a single layer at a time
    return jax.lax.map(lambda layer: _add(*layer, dtype=dtype), (kernel, a, b, alpha))
  with jax.default_matmul_precision('highest'):  # of a TPU, which otherwise multiplies in bf16
    product = lora.delta(*(jnp.asarray(part, jnp.float32) for part in (a, b, alpha)))
  return (kernel.astype(jnp.float32) + product.reshape(kernel.shape)).astype(dtype)
