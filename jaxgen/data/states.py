"""A cache of the conditioning of each prompt, so that no text tower is needed to train.

A folder as of ``cache``, whose entries are the ``Conditioning`` of one sample each.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import serialization

from jaxgen.core.types import Conditioning
from jaxgen.data.cache import Cache
from jaxgen.data.cache import entry_key
from jaxgen.data.cache import read_field
from jaxgen.data.example import SampleConditioning
from jaxgen.data.example import TokenizedPrompt
from jaxgen.data.example import TowerPrompt

FIELD = 'config.data.states'
COMMAND = '`jaxgen data cache --states --config=FILE --out=DIR`'
STEM, SHAPE = 'states', 'states of a prompt'


@dataclasses.dataclass(frozen=True)
class ConditioningShape:
  """The sizes of the conditioning of one sample.

  Attributes:
    tokens: states at the most.
    width: D.
    dtype: of states and pooled vector.
    pooled: Dp; 0 = there is no pooled vector.
    guidance: there is a guidance scale.
    pads: learned pads stand among the states.
  """

  tokens: int
  width: int
  dtype: str
  pooled: int
  guidance: bool
  pads: bool

  @classmethod
  def of(cls, conditioning: Conditioning) -> 'ConditioningShape':
    """Of the conditioning of rows with one sample each; arrays or their shapes."""
    _, tokens, width = conditioning.states.shape
    pooled = conditioning.pooled
    return cls(tokens, width, jnp.dtype(conditioning.states.dtype).name,
               0 if pooled is None else pooled.shape[-1], conditioning.guidance is not None,
               conditioning.pads is not None)

  def empty(self, rows: int, segments: int) -> Conditioning:
    """Numpy arrays [rows, segments x tokens, ...] of nothing."""
    places, dtype = (rows, segments * self.tokens), jnp.dtype(self.dtype)
    return Conditioning(
        states=np.zeros((*places, self.width), dtype), positions=np.zeros((*places, 3), np.int32),
        segments=np.zeros(places, np.int32),
        pooled=np.zeros((rows, segments, self.pooled), dtype) if self.pooled else None,
        guidance=np.zeros((rows, segments), np.float32) if self.guidance else None,
        pads=np.zeros(places, bool) if self.pads else None)


class States:
  """Random access to the entries, by key.

  Attributes:
    folder: of the cache.
    shape: of its entries.
  """

  def __init__(self, folder: str, where: str = FIELD):
    """Reads the keys; see ``Cache``."""
    self._cache = Cache(folder, where, STEM, command=COMMAND)
    self.folder, self.shape = folder, stored_shape(folder, where)

  def __len__(self) -> int:
    return len(self._cache)

  def __contains__(self, key: bytes) -> bool:
    return key in self._cache

  def get(self, key: bytes) -> SampleConditioning | None:
    """The conditioning of a prompt, None where there is no such entry."""
    data = self._cache.read(key)
    return None if data is None else SampleConditioning(**serialization.msgpack_restore(data))


def stored_shape(folder: str, where: str = FIELD) -> ConditioningShape:
  """The shape of the entries of a cache, as its info says.

  Raises:
    UserError: no cache of states there.
  """
  return ConditioningShape(**read_field(folder, SHAPE, where, COMMAND))


def to_bytes(conditioning: SampleConditioning) -> bytes:
  """An entry; ``States.get`` reads it back."""
  return serialization.msgpack_serialize({field.name: getattr(conditioning, field.name)
                                          for field in dataclasses.fields(SampleConditioning)})


def prompt_key(prompt: TokenizedPrompt, towers: Mapping[str, TowerPrompt], images: Any) -> bytes:
  """The key of a prompt: all tokens, where they stand, and the keys of the images that are seen."""
  fields: list[Any] = []
  for part in (prompt, *(towers[group] for group in sorted(towers))):
    for field in dataclasses.fields(part):
      array = np.ascontiguousarray(getattr(part, field.name))
      fields += [field.name, array.shape, array.tobytes()]
  return entry_key(*fields, *images)
