"""Weight-only quantisation: kernels that do not train in eight bits, one scale for each output.

A ``Linear`` that finds a ``kernel_scale`` next to its ``kernel`` multiplies its output by it. So a
quantised model is the same module with other parameters, as an adapted one is (``lora``), and
everything here is a function over parameter trees. qwix computes the numbers; its own way into a
model passes over ours (docs/decisions.md).
"""

import importlib.util
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.models.layers.linear import input_dims
from jaxgen.models.layers.linear import linear_kernels

FIELD = 'config.model.quantized'
FORMATS = {'int8': jnp.int8, 'fp8': jnp.float8_e4m3fn}

Rules = Sequence[tuple[str, str]]  # (regex over group/path, name of a format)


def chosen_kernels(axes: trees.Tree, rules: Rules) -> dict[str, str]:
  """Which kernels of linear modules are quantised: path -> format, of the first rule that matches.

  Args:
    axes: tree of tuples of logical names of all parameters.
    rules: what a rule matches besides such kernels stays as it is.

  Raises:
    UserError: a rule that matches no kernel, or qwix is not installed.
  """
  if not rules:
    return {}
  require_qwix(FIELD, tuple(rules))
  kernels = linear_kernels(trees.flatten(axes))
  chosen = {}
  for pattern, name in rules:
    matched = [path for path in kernels if re.fullmatch(pattern, path)]
    if not matched:
      raise user_error(FIELD, pattern, f'matches no kernel of a linear module; there are '
                       f'{kernels[:3]} and so on')
    chosen = {path: name for path in matched} | chosen
  return chosen


def has_qwix() -> bool:
  """Whether the extra that computes the numbers is installed."""
  return importlib.util.find_spec('qwix') is not None


def require_qwix(field: str, value: Any) -> None:
  """Refuses a setting that nobody can follow without the extra."""
  if not has_qwix():
    raise user_error(field, value, 'needs qwix, which is not installed; pip install '
                     "--constraint constraints.txt --editable '.[quantize]'")


def quantize(params: trees.Tree, axes: trees.Tree, kernels: Mapping[str, str]) -> Params:
  """Kernels in eight bits, with ``kernel_scale`` f32[layers?, *features] beside each.

  The largest weight of an output channel becomes the largest number of the format; zero stays
  zero. Rounding moves a weight by 1 / 254 of that largest one at the most with ``int8``.

  What lies in host memory stays there: its kernels pass over a device one layer at a time, as one
  device might not hold them all.

  Args:
    params: tree of floating-point arrays.
    axes: tree of tuples of logical names that holds at least these parameters.
    kernels: from ``chosen_kernels``; those that ``params`` lacks, or holds quantised already, are
      passed over.
  """
  flat, names = trees.flatten(params), trees.flatten(axes)
  for path in sorted(path for path in kernels.keys() & flat.keys()
                     if f'{path}_scale' not in flat):
    flat[path], flat[f'{path}_scale'] = _quantized(flat[path], names[path], kernels[path])
  return trees.unflatten(flat)


def quantized_axes(axes: trees.Tree, kernels: Mapping[str, str]) -> dict[str, Any]:
  """The logical names of what ``quantize`` gives."""
  flat = trees.flatten(axes)
  scales = {f'{path}_scale': tuple(flat[path][dim] for dim in _outputs(flat[path]))
            for path in kernels.keys() & flat.keys()}
  return trees.unflatten(flat | scales)


def _quantized(kernel, names, name):
  """A kernel in eight bits and its scales, both where the kernel lies."""
  if not isinstance(kernel, np.ndarray):
    return _in_eight_bits(kernel, names, name)
  step = 1 if names[0] == 'layers' else len(kernel)
  parts = [jax.device_get(_in_eight_bits(kernel[start:start + step], names, name))
           for start in range(0, len(kernel), step)]
  return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))


def _in_eight_bits(kernel, names, name):
  import qwix  # an extra; see ``chosen_kernels``
  kept = _outputs(names)
  array = qwix.quantize(jnp.asarray(kernel, jnp.float32), FORMATS[name], channelwise_axes=kept)
  return array.qvalue, array.scale.reshape([kernel.shape[dim] for dim in kept])


def _outputs(names: tuple[str, ...]) -> list[int]:
  """Dims of a kernel [layers?, *inputs, *features] that have a scale of their own."""
  layers = 1 if names[0] == 'layers' else 0
  first = layers + input_dims(names[layers:])
  return [*range(layers), *range(first, len(names))]
