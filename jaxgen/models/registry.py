"""Model families by name, and how a config section becomes a module."""

import dataclasses
import functools
import typing
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxgen.core import trees
from jaxgen.core.errors import user_error
from jaxgen.core.types import Params
from jaxgen.models.autoencoders.dc import DCAE
from jaxgen.models.autoencoders.dc import DCAEConfig
from jaxgen.models.autoencoders.hunyuan_video import HunyuanVideoVAE
from jaxgen.models.autoencoders.hunyuan_video import HunyuanVideoVAEConfig
from jaxgen.models.autoencoders.kl import KLAutoencoder
from jaxgen.models.autoencoders.kl import KLConfig
from jaxgen.models.autoencoders.pixel import PixelAutoencoder
from jaxgen.models.autoencoders.pixel import PixelConfig
from jaxgen.models.autoencoders.wan import WanVAE
from jaxgen.models.autoencoders.wan import WanVAEConfig
from jaxgen.models.bridges.connectors import EncoderConnector
from jaxgen.models.bridges.connectors import EncoderConnectorConfig
from jaxgen.models.bridges.connectors import LayersConnector
from jaxgen.models.bridges.connectors import LayersConnectorConfig
from jaxgen.models.bridges.connectors import MLPConnector
from jaxgen.models.bridges.connectors import MLPConnectorConfig
from jaxgen.models.bridges.learnable_queries import LearnableQueries
from jaxgen.models.bridges.learnable_queries import LearnableQueriesConfig
from jaxgen.models.bridges.residual_queries import ResidualQueries
from jaxgen.models.bridges.residual_queries import ResidualQueriesConfig
from jaxgen.models.denoisers.cosmos import Cosmos
from jaxgen.models.denoisers.cosmos import CosmosConfig
from jaxgen.models.denoisers.dual_stream import DualStream
from jaxgen.models.denoisers.dual_stream import DualStreamConfig
from jaxgen.models.denoisers.hunyuan_video import HunyuanVideo
from jaxgen.models.denoisers.hunyuan_video import HunyuanVideoConfig
from jaxgen.models.denoisers.mmdit import MMDiT
from jaxgen.models.denoisers.mmdit import MMDiTConfig
from jaxgen.models.denoisers.sana import Sana
from jaxgen.models.denoisers.sana import SanaConfig
from jaxgen.models.denoisers.z_image import ZImage
from jaxgen.models.denoisers.z_image import ZImageConfig
from jaxgen.models.encoders.causal_lm import CausalLM
from jaxgen.models.encoders.causal_lm import CausalLMConfig
from jaxgen.models.encoders.clip_text import ClipText
from jaxgen.models.encoders.clip_text import ClipTextConfig
from jaxgen.models.encoders.image_text import ImageTextConfig
from jaxgen.models.encoders.image_text import ImageTextTower
from jaxgen.models.encoders.image_tower import ImageTower
from jaxgen.models.encoders.image_tower import ImageTowerConfig
from jaxgen.models.encoders.internvl import InternVL
from jaxgen.models.encoders.internvl import InternVLConfig
from jaxgen.models.encoders.qwen2_5_vl import Qwen2_5VL
from jaxgen.models.encoders.qwen2_5_vl import Qwen2_5VLConfig
from jaxgen.models.encoders.t5 import T5Config
from jaxgen.models.encoders.t5 import T5Encoder


def section(family: str, **fields: Any) -> dict[str, Any]:
  """A complete ``config.model.<group>`` section: every field, defaults included.

  Args:
    family: a key of ``FAMILIES``.
    **fields: fields of its config class; a dict where the field is itself a config.

  Raises:
    UserError: an unknown family, an unknown, missing or mistyped field.
  """
  return {'family': family, **dataclasses.asdict(make_config(dict(fields, family=family)))}


def build(values: Mapping[str, Any], dtype: jnp.dtype) -> nn.Module:
  """The module that a config section describes.

  Args:
    values: ``family`` and the fields of its config class.
    dtype: of the computation.

  Raises:
    UserError: as ``section``.
  """
  return FAMILIES[_family(values)].module(make_config(values), dtype)


def make_config(values: Mapping[str, Any]) -> Any:
  """The config object of a section; see ``build``."""
  family = FAMILIES[_family(values)]
  fields = {name: values[name] for name in values if name != 'family'}
  return _construct(family.config, fields, f'config.model.{family.group}')


def init(module: nn.Module, rng: jax.Array) -> Params:
  """Random boxed Flax variables of a module that ``build`` made."""
  return module.init(rng, *module.example())


@functools.lru_cache(maxsize=64)
def boxed_shapes(module: nn.Module) -> Params:
  """``jax.ShapeDtypeStruct`` of every boxed parameter of a module that ``build`` made.

  Kept from call to call, as it traces the module; not to be changed.
  """
  return jax.eval_shape(lambda rng: init(module, rng), jax.random.key(0)).get('params', {})


def param_shapes(module: nn.Module) -> Params:
  """``jax.ShapeDtypeStruct`` of every parameter of a module that ``build`` made."""
  return nn.meta.unbox(boxed_shapes(module))


def param_axes(module: nn.Module) -> dict[str, Any]:
  """The logical axis names of every parameter, as tuples, in a tree like ``param_shapes``."""
  return axes_of(boxed_shapes(module))


def axes_of(boxed: Params) -> dict[str, Any]:
  """The logical axis names of boxed parameters, as tuples, in a tree like theirs."""
  return trees.map_named(lambda _, spec: tuple(spec), nn.get_partition_spec(boxed))


def _family(values: Mapping[str, Any]) -> str:
  name = values['family'] if 'family' in values else None
  if name not in FAMILIES:
    raise user_error('config.model: family', name, f'must be one of {sorted(FAMILIES)}')
  return name


def _construct(kind: type, values: Mapping[str, Any], where: str) -> Any:
  """``kind(**values)`` after checking names and types, nested configs included."""
  fields = {field.name: field for field in dataclasses.fields(kind)}
  for name in values:
    if name not in fields:
      raise user_error(f'{where}.{name}', values[name], f'no such field; known: {sorted(fields)}')
  hints = typing.get_type_hints(kind)
  checked = {}
  for name, field in fields.items():
    if name in values:
      checked[name] = _convert(hints[name], values[name], f'{where}.{name}')
    elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
      raise user_error(f'{where}.{name}', None, f'is missing; {kind.__name__} needs it')
  return kind(**checked)


def _convert(kind: Any, value: Any, where: str) -> Any:
  """``value`` as a ``kind``; integers pass as floats and lists as tuples, nothing else bends."""
  if dataclasses.is_dataclass(kind):
    if not isinstance(value, Mapping) and not hasattr(value, 'items'):
      raise user_error(where, value, f'must be a section with the fields of {kind.__name__}')
    return _construct(kind, dict(value.items()), where)
  plain = typing.get_origin(kind) or kind
  if plain is float and type(value) is int:
    return float(value)
  if plain is tuple and isinstance(value, (list, tuple)):
    item = typing.get_args(kind)[0]
    return tuple(_convert(item, part, f'{where}[{index}]') for index, part in enumerate(value))
  if type(value) is not plain:
    raise user_error(where, value, f'must be {plain.__name__}')
  return value


# Group of the towers that give features of images. No system holds one, so no config names them.
TOWER = 'tower'


class Family(typing.NamedTuple):
  """A family: its config, its module, the parameter group that it fills.

  ``module(config, dtype)`` has ``example()``: the smallest arguments of its ``__call__``. Towers
  have ``image(pixels)``, and ``text(tokens)`` where they read texts too.
  """

  config: type
  module: type[nn.Module]
  group: str


FAMILIES: dict[str, Family] = {
    'internvl': Family(InternVLConfig, InternVL, 'mllm'),
    'qwen2_5_vl': Family(Qwen2_5VLConfig, Qwen2_5VL, 'mllm'),
    'llama': Family(CausalLMConfig, CausalLM, 'text_encoder'),
    'qwen3': Family(CausalLMConfig, CausalLM, 'text_encoder'),
    't5': Family(T5Config, T5Encoder, 'text_encoder'),
    'clip_text': Family(ClipTextConfig, ClipText, 'text_encoder_2'),
    'clip': Family(ImageTextConfig, ImageTextTower, TOWER),
    'siglip': Family(ImageTextConfig, ImageTextTower, TOWER),
    'siglip2': Family(ImageTextConfig, ImageTextTower, TOWER),
    'dino': Family(ImageTowerConfig, ImageTower, TOWER),
    'dinov2': Family(ImageTowerConfig, ImageTower, TOWER),
    'dinov2_registers': Family(ImageTowerConfig, ImageTower, TOWER),
    'residual_queries': Family(ResidualQueriesConfig, ResidualQueries, 'bridge'),
    'learnable_queries': Family(LearnableQueriesConfig, LearnableQueries, 'bridge'),
    'mlp_connector': Family(MLPConnectorConfig, MLPConnector, 'connector'),
    'encoder_connector': Family(EncoderConnectorConfig, EncoderConnector, 'connector'),
    'layers_connector': Family(LayersConnectorConfig, LayersConnector, 'connector'),
    'mmdit': Family(MMDiTConfig, MMDiT, 'denoiser'),
    'hunyuan_video': Family(HunyuanVideoConfig, HunyuanVideo, 'denoiser'),
    'qwen_image': Family(DualStreamConfig, DualStream, 'denoiser'),
    'sd3': Family(DualStreamConfig, DualStream, 'denoiser'),
    'cosmos': Family(CosmosConfig, Cosmos, 'denoiser'),
    'sana': Family(SanaConfig, Sana, 'denoiser'),
    'z_image': Family(ZImageConfig, ZImage, 'denoiser'),
    'kl': Family(KLConfig, KLAutoencoder, 'autoencoder'),
    'hunyuan_video_vae': Family(HunyuanVideoVAEConfig, HunyuanVideoVAE, 'autoencoder'),
    'wan_vae': Family(WanVAEConfig, WanVAE, 'autoencoder'),
    'dc_ae': Family(DCAEConfig, DCAE, 'autoencoder'),
    'pixel': Family(PixelConfig, PixelAutoencoder, 'autoencoder'),
}
