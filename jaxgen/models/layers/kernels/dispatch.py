"""Chooses the kernel of each platform while a program is lowered for it, and splits its work.

Two primitives stand for attention and for its gradients in a traced program. What they become is
decided at lowering time: nothing is traced for other platforms, and a program lowered for a TPU
or GPU on a machine without one gets the kernels of its target.
"""

import functools
import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend import core
from jax.interpreters import batching
from jax.interpreters import mlir
from jax.sharding import PartitionSpec

from jaxgen.models.layers.kernels import cpu
from jaxgen.models.layers.kernels import cudnn
from jaxgen.models.layers.kernels import ring
from jaxgen.models.layers.kernels import splash
from jaxgen.models.layers.kernels import xla
from jaxgen.models.layers.kernels.contract import Arrays
from jaxgen.models.layers.kernels.contract import Kernel
from jaxgen.models.layers.kernels.contract import Visibility
from jaxgen.sharding.partition import even_axes

# In the order of preference; the last one of each fits always.
KERNELS = {
    'cpu': (cpu.KERNEL,),
    'cuda': (cudnn.KERNEL, xla.KERNEL),
    'tpu': (splash.KERNEL, xla.KERNEL),
    None: (xla.KERNEL,),
}


class Split(NamedTuple):
  """How the devices share the work; each entry but ``mesh`` holds names of its axes.

  ``keys`` is ``tokens``, and keys rotate around a ring of devices; or it is empty, and every device
  gathers all keys of its rows and heads.
  """

  mesh: jax.sharding.AbstractMesh
  rows: tuple[str, ...]
  heads: tuple[str, ...]
  tokens: tuple[str, ...]
  keys: tuple[str, ...]


def split_of(rows: int, heads: int, tokens: int, keys: int) -> Split | None:
  """How the mesh and the logical rules of the context split so many rows, heads, queries and keys.

  Mesh axes that do not divide a dimension leave it whole. None where nothing is split.
  """
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return None
  sizes = dict(rows=rows, heads=heads, tokens=tokens, keys=keys)
  axes = {name: even_axes(nn.logical_to_mesh_axes((name,))[0], size)
          for name, size in sizes.items()}
  if axes['keys'] != axes['tokens']:
    axes['keys'] = ()
  return Split(mesh, **axes) if any(axes.values()) else None


def forward(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility,
            split: Split | None) -> Arrays:
  """``Kernel.forward`` of the platform that the program is lowered for."""
  return tuple(_bind(FORWARD, (q, k, v), visibility, split))


def backward(q: jax.Array, k: jax.Array, v: jax.Array, visibility: Visibility, out: jax.Array,
             logsumexp: jax.Array, gradient: jax.Array, split: Split | None) -> Arrays:
  """``Kernel.backward`` of the platform that the program is lowered for."""
  return tuple(_bind(BACKWARD, (q, k, v, out, logsumexp, gradient), visibility, split))


FORWARD = core.Primitive('attention_forward')
BACKWARD = core.Primitive('attention_backward')


def run_forward(kernels: Sequence[Kernel], *arrays: jax.Array, given: tuple[bool, ...],
                split: Split | None) -> Arrays:
  """What ``FORWARD`` becomes: the first of the kernels that fits what one device has to do."""
  def local(q, k, v, *visible):
    kernel = _kernel_for(q, k, kernels, split)
    return kernel.forward(q, k, v, _visibility(visible, given))

  return _on_each_device(local, split, given, ('q', 'kv', 'kv'), ('q', 'log'))(*arrays)


def run_backward(kernels: Sequence[Kernel], *arrays: jax.Array, given: tuple[bool, ...],
                 split: Split | None) -> Arrays:
  """What ``BACKWARD`` becomes; gradients of keys that every device holds are summed over them,
  each keeping its part of the sum where the keys divide."""
  parts = _divides(arrays[1].shape[2], split)

  def local(q, k, v, out, logsumexp, gradient, *visible):
    kernel = _kernel_for(q, k, kernels, split)
    by_q, by_k, by_v = kernel.backward(
        q, k, v, _visibility(visible, given), out, logsumexp, gradient)
    if parts:
      by_k, by_v = (jax.lax.psum_scatter(x, split.tokens, scatter_dimension=2, tiled=True)
                    for x in (by_k, by_v))
    elif split is not None and split.tokens and not split.keys:
      by_k, by_v = jax.lax.psum((by_k, by_v), split.tokens)
    return by_q, by_k, by_v

  inputs, by_keys = ('q', 'kv', 'kv', 'q', 'log', 'q'), 'q' if parts else 'kv'
  return _on_each_device(local, split, given, inputs, ('q', by_keys, by_keys))(*arrays)


def _divides(keys, split):
  """Whether gathered keys divide over the devices that the queries lie on."""
  if split is None or not split.tokens or split.keys:
    return False
  return keys % math.prod(split.mesh.shape[axis] for axis in split.tokens) == 0


def _bind(primitive, arrays, visibility, split):
  given = tuple(x is not None for x in visibility)
  return primitive.bind(
      *arrays, *(x for x in visibility if x is not None), given=given, split=split)


def _visibility(arrays, given):
  arrays = iter(arrays)
  return Visibility(*(next(arrays) if there else None for there in given))


def _kernel_for(q, k, kernels, split):
  """The first that fits the queries and keys of a device."""
  kernel = next(kernel for kernel in kernels if kernel.fits(q, k))
  return ring.around(kernel, split.keys) if split is not None and split.keys else kernel


def _on_each_device(local, split, given, inputs, outputs):
  """``local`` with each device's part of the arrays."""
  if split is None:
    return local
  rows, heads, tokens, keys = (axes or None for axes in split[1:])
  specs = {
      'q': PartitionSpec(rows, heads, tokens, None),
      'kv': PartitionSpec(rows, heads, keys, None),
      'log': PartitionSpec(rows, heads, tokens)}
  visible = [PartitionSpec(rows, tokens), PartitionSpec(rows, keys)] * 2
  return jax.shard_map(
      local, mesh=split.mesh, check_vma=False,
      in_specs=(*(specs[name] for name in inputs),
                *(spec for spec, there in zip(visible, given, strict=True) if there)),
      out_specs=tuple(specs[name] for name in outputs))


def _forward_shapes(q, *_, given, split):
  return q.update(weak_type=False), q.update(shape=q.shape[:3], dtype=jnp.dtype(jnp.float32))


def _backward_shapes(q, k, v, *_, given, split):
  return q, k, v


@functools.cache
def _compiled(primitive, **params):
  return jax.jit(functools.partial(primitive.bind, **params))


def _batched(primitive, arrays, axes, **params):
  """A further axis of rows, as ``jax.vmap`` adds one."""
  size = next(x.shape[axis] for x, axis in zip(arrays, axes, strict=True) if axis is not None)
  arrays = [batching.bdim_at_front(x, axis, size) for x, axis in zip(arrays, axes, strict=True)]
  out = primitive.bind(*(x.reshape(-1, *x.shape[2:]) for x in arrays), **params)
  return [x.reshape(size, -1, *x.shape[1:]) for x in out], [0] * len(out)


def _register(primitive, shapes, run):
  primitive.multiple_results = True
  primitive.def_abstract_eval(shapes)
  primitive.def_impl(lambda *arrays, **params: _compiled(primitive, **params)(*arrays))
  batching.primitive_batchers[primitive] = functools.partial(_batched, primitive)
  for platform, kernels in KERNELS.items():
    rule = mlir.lower_fun(functools.partial(run, kernels), multiple_results=True)
    mlir.register_lowering(primitive, rule, platform=platform)


_register(FORWARD, _forward_shapes, run_forward)
_register(BACKWARD, _backward_shapes, run_backward)
