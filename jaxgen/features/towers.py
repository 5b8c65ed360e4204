"""A feature tower that is ready to embed: its weights on every device, and its preprocessing."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxgen.conversion import load_pretrained
from jaxgen.conversion.locate import locate
from jaxgen.core.errors import user_error
from jaxgen.core.files import one_line
from jaxgen.core.types import Params
from jaxgen.models.encoders.image_tower import Patches
from jaxgen.models.registry import TOWER
from jaxgen.sharding.mesh import use_compilation_cache

DEVICES = 'data'  # the one mesh axis that images are split along


@dataclasses.dataclass(frozen=True)
class Tower:
  """A tower of a folder.

  Attributes:
    path: of the folder, as it was given.
    module: ``ImageTower`` or ``ImageTextTower``.
    params: on every device of this process.
    mesh: these devices.
    processor: the image processor of transformers that the folder describes.
    folder: where it lies, with its tokenizer.
  """

  path: str
  module: nn.Module
  params: Params
  mesh: Mesh
  processor: Any
  folder: str

  def pixels(self, image: np.ndarray) -> np.ndarray | Patches:
    """uint8[H, W, 3] -> f32[h, w, 3], as the tower was trained, or ``Patches`` without the first
    dimension if it is a NaFlex; safe to call from threads."""
    # Said to be channels last: of an image of three rows the class would guess otherwise.
    found = self.processor(images=image, input_data_format='channels_last', return_tensors='np')
    if 'spatial_shapes' in found:
      return Patches(found['pixel_values'][0], found['spatial_shapes'][0].astype(np.int32))
    return found['pixel_values'][0].transpose(1, 2, 0)

  def tokens(self, texts: Sequence[str]) -> np.ndarray:
    """i32[n, S]: texts with their special tokens, cut and padded to the length of the tower.

    Raises:
      UserError: the tower reads no texts, or its folder has no tokenizer.
    """
    if not self.reads_texts:
      raise user_error(self.path, None, 'reads images alone; give a CLIP or a SigLIP')
    found = self._tokenizer(list(texts), padding='max_length', truncation=True,
                            max_length=self.module.config.text.positions, return_tensors='np')
    return found['input_ids'].astype(np.int32)

  @property
  def reads_texts(self) -> bool:
    """Whether the tower embeds texts too."""
    return hasattr(self.module.config, 'text')

  @functools.cached_property
  def _tokenizer(self) -> Any:
    import transformers  # slow to import
    try:
      return transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
    except Exception as error:  # classes raise what they like where files are missing or damaged
      raise user_error(self.path, None, 'has no tokenizer that transformers reads '
                       f'({one_line(error)}); copy its tokenizer files there') from error


def open_tower(path: str, *, dtype: Any = jnp.float32) -> Tower:
  """Reads a tower.

  Args:
    path: folder of transformers, or hub id: a ``CLIPModel``, a ``SiglipModel`` (SigLIP 2 of a fixed
      resolution is one), a ``Siglip2Model`` (NaFlex), a ``ViTModel`` (DINO), a ``Dinov2Model`` or
      a ``Dinov2WithRegistersModel``, with its image processor.
    dtype: of the parameters and the computation.

  Raises:
    UserError: none of these, damaged files, no image processor, or that of another kind of tower.
  """
  use_compilation_cache()
  folder = locate(path)
  processor = _processor(folder, path)
  module, params = load_pretrained(folder, dtype=dtype, group=TOWER)
  naflex = isinstance(module.example()[0], Patches)
  if naflex != ('spatial_shapes' in processor.model_input_names):
    raise user_error(f'{path}: preprocessor_config.json', type(processor).__name__,
                     'does not fit the weights beside it: one of the two is a NaFlex; copy the '
                     'file of the same model')
  mesh = Mesh(np.asarray(jax.local_devices()), (DEVICES,))
  params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
  return Tower(path, module, params, mesh, processor, folder)


def _processor(folder: str, path: str) -> Any:
  """The class's own processing, with PIL: it needs no torch, and pixels are those of the class."""
  names = [name for name in ('preprocessor_config.json', 'processor_config.json')
           if (epath.Path(folder) / name).exists()]
  if not names:
    raise user_error(path, None, 'has no preprocessor_config.json, which says how images are '
                     'resized and normalised; copy it beside the weights')
  import transformers  # slow to import
  try:
    return transformers.AutoImageProcessor.from_pretrained(folder, backend='pil',
                                                           local_files_only=True)
  except Exception as error:  # classes raise what they like
    raise user_error(f'{path}: {names[0]}', None, 'is no image processor of transformers '
                     f'({one_line(error)}); copy that file again') from error
