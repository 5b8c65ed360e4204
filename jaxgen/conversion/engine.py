"""The conversion engine: reads a name table forwards to import and backwards to export.

A table is data. Each ``Rule`` says which parameter of ours is which tensor of theirs and how
the layouts differ; each ``Constant`` is a tensor that their class always has and ours does not.
Rules whose parameter the model at hand lacks (an optional bias, an untied head) are idle, so
one table serves every size and option of a family.

Paths may hold the wildcards ``{i}`` and ``{j}``, which stand for numbers. A wildcard on both
sides pairs numbered modules; one on their side alone runs over the leading dimension of our
parameter: the layers of a scanned stack.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from typing import Protocol

import numpy as np

from jaxgen.conversion.transforms import Box
from jaxgen.conversion.transforms import Cut
from jaxgen.conversion.transforms import Transform
from jaxgen.conversion.transforms import sizes
from jaxgen.conversion.transforms import whole
from jaxgen.conversion.transforms import within
from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.mismatch import mismatch
from jaxgen.core.mismatch import shorten


class Tensor(Protocol):
  """What the engine needs of an external tensor; numpy arrays have it."""

  shape: tuple[int, ...]
  dtype: np.dtype

  def __getitem__(self, box: Box) -> np.ndarray:
    """The values of a box; the first point at which anything is read."""


@dataclasses.dataclass(frozen=True)
class Rule:
  """One parameter of ours and the tensor, or tensors, of theirs that it holds.

  Attributes:
    ours: parameter path, '/' between levels.
    theirs: tensor name; several names are fused: ours is the concatenation of the transformed
      tensors along ``fuse``.
    transforms: what turns each tensor of theirs (of one layer) into ours.
    fuse: dimension of our parameter (of one layer) along which several tensors are joined.
    parts: relative sizes of the joined tensors; empty = equal.
    joined: their tensor holds several parameters of ours, one below the other along its first
      dimension, in the order of the joined rules that name it (a fused qkv).
    after: path of a stacked parameter of ours, the length of whose stack is this rule's ``{i}``:
      the block that follows a stack; '' = none.
    backwards: path with ``{i}`` of a parameter that every numbered module has. Their ``{r}`` is
      then our ``{i}`` counted from the last of these: releases that number from the other end.
  """

  ours: str
  theirs: str | tuple[str, ...]
  transforms: tuple[Transform, ...] = ()
  fuse: int = 0
  parts: tuple[int, ...] = ()
  joined: bool = False
  after: str = ''
  backwards: str = ''

  @property
  def names(self) -> tuple[str, ...]:
    return (self.theirs,) if isinstance(self.theirs, str) else self.theirs


@dataclasses.dataclass(frozen=True)
class Constant:
  """A tensor of theirs with one fixed value: written on export, checked on import.

  Attributes:
    theirs: tensor name.
    shape: sizes; a pair ``(path, axis)`` takes the size of that dimension of our parameter.
    unless: path of our parameter whose presence makes a rule apply instead; '' = always constant.
    value: what every entry holds.
  """

  theirs: str
  shape: tuple[int | tuple[str, int], ...]
  unless: str = ''
  value: float = 0.0


@dataclasses.dataclass(frozen=True)
class Link:
  """One tensor of theirs, or a range of its rows, and its place in one parameter of ours."""

  theirs: str
  rule: Rule
  path: str
  layer: int | None
  part: slice | None
  stages: tuple[tuple[int, ...], ...]  # shapes from ours (one layer, one part) to theirs
  rows: slice | None = None  # of a joined tensor

  @property
  def shape(self) -> tuple[int, ...]:
    return self.stages[-1]

  def view(self, leaf: np.ndarray) -> np.ndarray:
    """The region of our parameter that this tensor fills."""
    leaf = leaf if self.layer is None else leaf[self.layer]
    return leaf if self.part is None else leaf[(slice(None),) * self.rule.fuse + (self.part,)]

  def read(self, tensor: Tensor, box: Box) -> np.ndarray:
    """A box of what ``view`` gives; reads only the part of the tensor that it is made of."""
    cuts = self._cuts(box)
    start = self.rows.start if self.rows else 0
    theirs = cuts[-1].theirs if cuts else box
    if start:
      theirs = (slice(theirs[0].start + start, theirs[0].stop + start), *theirs[1:])
    array = tensor[theirs]
    for index in range(len(cuts) - 1, -1, -1):
      wanted = cuts[index - 1].theirs if index else box
      array = cuts[index].transform.read(array, sizes(cuts[index].ours))
      array = array[within(wanted, cuts[index].ours)]
    return array

  def source(self, box: Box) -> Box:
    """The part of the tensor (of its own rows) that ``read`` reads."""
    return self._cuts(box)[-1].theirs if self.rule.transforms else box

  def write(self, array: np.ndarray) -> np.ndarray:
    """What ``view`` gives, in their layout."""
    for transform in reversed(self.rule.transforms):
      array = transform.write(array)
    return array

  def _cuts(self, box: Box) -> list[Cut]:
    """What a box of ours is made of, transform by transform, the last in the tensor itself."""
    cuts = []
    for transform, shape in zip(reversed(self.rule.transforms), self.stages[:-1], strict=True):
      cuts.append(transform.cut(box, shape))
      box = cuts[-1].theirs
    return cuts


@dataclasses.dataclass(frozen=True)
class Unwritten:
  """A tensor of theirs that is made when ``np.asarray`` asks for it.

  Attributes:
    shape, dtype: of the tensor.
    make: the values.
  """

  shape: tuple[int, ...]
  dtype: np.dtype
  make: Callable[[], np.ndarray]

  @property
  def nbytes(self) -> int:
    return math.prod(self.shape) * self.dtype.itemsize

  def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
    return self.make() if dtype is None else self.make().astype(dtype)


Rules = tuple[Rule | Constant, ...]


def from_torch(rules: Rules, tensors: Mapping[str, Tensor], shapes: trees.Tree, *,
               where: str = 'tensors') -> dict[str, Any]:
  """Reads their tensors as our parameters.

  Args:
    rules: the name table.
    tensors: tensors by name; each may be read when indexed. Dtypes are kept.
    shapes: our parameter tree, leaves with ``.shape``.
    where: file or folder named in errors.

  Returns:
    Our parameter tree of numpy arrays.

  Raises:
    UserError: one error that lists every missing, unknown and misshapen tensor.
  """
  flat = trees.flatten(shapes)
  params: dict[str, np.ndarray] = {}
  for link in fit(rules, tensors, shapes, where=where):
    array = link.read(tensors[link.theirs], whole(link.stages[0]))
    if link.path not in params:
      params[link.path] = np.empty(tuple(flat[link.path].shape), array.dtype)
    link.view(params[link.path])[...] = array
  return trees.unflatten(params)


def fit(rules: Rules, tensors: Mapping[str, Tensor], shapes: trees.Tree, *,
        where: str = 'tensors') -> list[Link]:
  """Checks that a table leads from these tensors to parameters of these shapes.

  Returns:
    The place of every tensor, from which ``Link.read`` reads it.

  Raises:
    UserError: as ``from_torch``.
  """
  links, constants = _resolve(rules, trees.flatten(shapes))
  _check(links, constants, tensors, where)
  return links


def to_torch(rules: Rules, params: trees.Tree) -> dict[str, np.ndarray]:
  """Writes our parameters as their tensors: ``from_torch`` read backwards.

  Args:
    rules: the name table.
    params: our parameter tree, numpy or JAX arrays. Dtypes are kept.

  Returns:
    Arrays by their names, mostly views of ours; copy before changing them.
  """
  flat = {path: np.asarray(leaf) for path, leaf in trees.flatten(params).items()}
  return {name: np.asarray(tensor) for name, tensor in unwritten(rules, flat).items()}


def unwritten(rules: Rules, params: trees.Tree,
              fetch: Callable[[Any], np.ndarray] = np.asarray) -> dict[str, 'Unwritten']:
  """Their tensors, none of them made yet.

  Args:
    rules: the name table.
    params: our parameter tree, leaves with ``.shape``, ``.dtype`` and slices.
    fetch: makes a numpy array of a slice of a leaf.
  """
  flat = trees.flatten(params)
  links, constants = _resolve(rules, flat)
  shapes, dtype = _shapes(links), next(iter(flat.values())).dtype
  parts: dict[str, list[Link]] = {}
  for link in links:
    parts.setdefault(link.theirs, []).append(link)

  def make(own: list[Link]) -> np.ndarray:
    arrays = [link.write(fetch(link.view(flat[link.path]))) for link in own]
    return arrays[0] if own[0].rows is None else np.concatenate(arrays)

  tensors = {name: Unwritten(shapes[name], np.dtype(flat[own[0].path].dtype),
                             functools.partial(make, own)) for name, own in parts.items()}
  for name, (shape, value) in constants.items():
    tensors[name] = Unwritten(shape, np.dtype(dtype),
                              functools.partial(np.full, shape, value, dtype))
  return tensors


def names_and_shapes(rules: Rules, shapes: trees.Tree) -> dict[str, tuple[int, ...]]:
  """What ``to_torch`` would write for parameters of these shapes, without the data."""
  links, constants = _resolve(rules, trees.flatten(shapes))
  return _shapes(links) | {name: shape for name, (shape, _) in constants.items()}


def places(rules: Rules, shapes: trees.Tree) -> list[Link]:
  """Where every tensor of theirs lies in our parameters of these shapes."""
  return _resolve(rules, trees.flatten(shapes))[0]


def _resolve(rules: Rules, flat: Mapping[str, Any]) -> tuple[
    list[Link], dict[str, tuple[tuple[int, ...], float]]]:
  """Binds the table to the parameters at hand; every parameter must have one rule."""
  links, covered = [], {}
  for rule in rules:
    if isinstance(rule, Rule):
      for path, numbers in _matches(rule.ours, flat):
        assert path not in covered, f'{path} has two rules: {covered[path]} and {rule}'
        covered[path] = rule
        if rule.after:
          numbers = {'i': str(flat[rule.after].shape[0])}
        if rule.backwards:
          last = len(list(_matches(rule.backwards, flat))) - 1
          numbers = numbers | {'r': str(last - int(numbers['i']))}
        links.extend(_links(rule, path, numbers, tuple(flat[path].shape)))
  assert covered.keys() == flat.keys(), f'no rule for {sorted(flat.keys() - covered.keys())}'
  constants = {}
  for rule in rules:
    if isinstance(rule, Constant) and rule.unless not in flat:
      shape = tuple(size if isinstance(size, int) else flat[size[0]].shape[size[1]]
                    for size in rule.shape)
      constants[rule.theirs] = (shape, rule.value)
  return _place(links), constants


def _place(links: list[Link]) -> list[Link]:
  """Gives the links of joined rules their rows, in the order of the rules."""
  placed, ends = [], {}
  for link in links:
    if link.rule.joined:
      start = ends.get(link.theirs, 0)
      ends[link.theirs] = start + link.shape[0]
      link = dataclasses.replace(link, rows=slice(start, ends[link.theirs]))
    placed.append(link)
  return placed


def _shapes(links: list[Link]) -> dict[str, tuple[int, ...]]:
  """Shapes of their tensors; a joined one ends where its last link does."""
  return {link.theirs: link.shape if link.rows is None else (link.rows.stop, *link.shape[1:])
          for link in links}


def _matches(pattern: str, paths: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, str]]]:
  """Paths of ours that a rule names, with the numbers that its wildcards stand for."""
  if '{' not in pattern:
    yield from ((path, {}) for path in (pattern,) if path in paths)
    return
  regex = re.sub(r'\\\{(\w)\\\}', r'(?P<\1>\\d+)', re.escape(pattern))
  for path in paths:
    if match := re.fullmatch(regex, path):
      yield path, match.groupdict()


def _links(rule: Rule, path: str, numbers: dict[str, str],
           shape: tuple[int, ...]) -> Iterator[Link]:
  names = [_fill(name, numbers) for name in rule.names]
  stacked = re.search(r'\{(\w)\}', names[0])
  layers = range(shape[0]) if stacked else (None,)
  one = shape[1:] if stacked else shape
  parts = _parts(rule, one)
  for name, part in zip(names, parts, strict=True):
    own = list(one)
    if part is not None:
      own[rule.fuse] = part.stop - part.start
    stages = [tuple(own)]
    for transform in reversed(rule.transforms):
      stages.append(transform.written_shape(stages[-1]))
    for layer in layers:
      full = name if layer is None else _fill(name, {stacked.group(1): str(layer)})
      yield Link(full, rule, path, layer, part, tuple(stages))


def _fill(name: str, numbers: Mapping[str, str]) -> str:
  for wildcard, number in numbers.items():
    name = name.replace('{' + wildcard + '}', number)
  return name


def _parts(rule: Rule, shape: tuple[int, ...]) -> list[slice | None]:
  """Where each fused tensor lies along the fused dimension."""
  if len(rule.names) == 1:
    return [None]
  sizes = rule.parts or (1,) * len(rule.names)
  unit, rest = divmod(shape[rule.fuse], sum(sizes))
  assert rest == 0, f'{rule}: {shape} does not divide into {sizes}'
  ends = np.cumsum(sizes) * unit
  return [slice(int(end - size * unit), int(end)) for size, end in zip(sizes, ends, strict=True)]


def _check(links: list[Link], constants: Mapping[str, tuple[tuple[int, ...], float]],
           tensors: Mapping[str, Tensor], where: str) -> None:
  """Raises one error that lists everything that does not fit."""
  wanted = _shapes(links)
  wanted |= {name: shape for name, (shape, _) in constants.items()}
  text = mismatch({name: tuple(tensor.shape) for name, tensor in tensors.items()}, wanted)
  if not text:
    held = [f'{name} (must be {value} throughout)' for name, (_, value) in constants.items()
            if np.any(np.asarray(tensors[name]) != value)]
    text = f'{len(held)} that this model cannot hold: {shorten(held)}' if held else ''
  if text:
    raise user_error(where, None, f'these tensors do not fit the model; {text}; use a checkpoint '
                     'of this family and these sizes')
