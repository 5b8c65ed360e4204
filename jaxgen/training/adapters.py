"""Merges adapters into their kernels while weights are loaded, shard by shard.

The next stage then starts from plain kernels, without the adapters of the previous stage
(Query-Kontext, stage 2: L061). Values are read only when a parameter is placed on the devices, and
each device computes only its own shard of a kernel.
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
  """Replaces kernels by ``Merged`` ones where a 'merge' rule matches their adapters.

  Args:
    found: tree of ``Stored``, ``{group: ...}``.
    changes: ``config.init_from.changes``.
    where: where the weights come from, named in errors.

  Returns:
    ``(tree without the merged adapters, paths of those adapters' modules)``. Adapters that no
    'merge' rule matches stay in the tree.

  Raises:
    UserError: a 'merge' rule matches a parameter that is not part of an adapter, or only some
      parameters of an adapter.
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

  The sum is computed in fp32 and rounded once, to the requested dtype.

  Attributes:
    kernel: the stored kernel, f[layers?, *inputs, *features].
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
    # Each factor is sharded like the kernel dims that it has, so no communication is needed.
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
  """The jitted sum for kernels of one sharding, computed per shard without communication."""
  return jax.jit(jax.shard_map(functools.partial(_add, dtype=dtype), mesh=mesh, in_specs=specs,
                               out_specs=specs[0]))


def _add(kernel: jax.Array, a: jax.Array, b: jax.Array, alpha: jax.Array, *, dtype: np.dtype
         ) -> jax.Array:
  """Adds the adapter's product to a kernel or a shard, layer by layer; returns ``dtype``."""
  if alpha.ndim:  # only one layer is in fp32 at a time
    return jax.lax.map(lambda layer: _add(*layer, dtype=dtype), (kernel, a, b, alpha))
  with jax.default_matmul_precision('highest'):  # TPUs multiply in bf16 by default
    product = lora.delta(*(jnp.asarray(part, jnp.float32) for part in (a, b, alpha)))
  return (kernel.astype(jnp.float32) + product.reshape(kernel.shape)).astype(dtype)
