"""The tables name every tensor of their classes at full size, and no other; without weights."""

import pathlib

import diffusers
import pytest
import torch
import transformers

from jaxgen.conversion import engine
from jaxgen.conversion import families
from jaxgen.models import registry
from jaxgen.models.encoders.clip_text import CLIP_L
from jaxgen.models.encoders.image_text import CLIP_B32
from jaxgen.models.encoders.image_text import CLIP_L14
from jaxgen.models.encoders.image_text import SIGLIP2_B16
from jaxgen.models.encoders.image_text import SIGLIP2_B16_NAFLEX
from jaxgen.models.encoders.image_tower import DINO_S16
from jaxgen.models.encoders.image_tower import DINOV2_B14
from jaxgen.models.encoders.image_tower import DINOV2_REGISTERS_B14
from jaxgen.models.encoders.internvl import INTERNVL3_2B
from jaxgen.models.encoders.qwen2_5_vl import QWEN2_5_VL_7B
from jaxgen.models.encoders.t5 import T5_XXL

# Query-Kontext's generator (paper, table 11), and a light SD3.
GENERATOR = dict(cond_dim=2560, width=2560, heads=40, layers=42, axes_dims=(8, 28, 28))
SD3 = dict(axes_dims=(), text_norm=False, text_ends=True, qk_norm=False, cond_dim=4096,
           pooled_dim=2048, width=1152, heads=18, layers=18, position_grid=96)
LLAMA_3 = dict(vocab=128256, width=4096, layers=32, heads=32, kv_heads=8, mlp=14336,
               qkv_bias=False, rope_theta=5e5, tie_embeddings=True)
QWEN3 = dict(vocab=151936, width=2560, layers=36, heads=32, kv_heads=8, mlp=9728,
             head_channels=128, qkv_bias=False, qk_norm=True, tie_embeddings=True)
# What is published -> (section, class, layout of the class in memory, numbers).
PUBLISHED = {
    'FLUX.1-dev': (dict(family='mmdit', pooled_dim=768, guidance_embed=True),
                   diffusers.FluxTransformer2DModel, '', 11_901_408_320),
    'HunyuanVideo': (dict(family='hunyuan_video'),
                     diffusers.HunyuanVideoTransformer3DModel, '', 12_821_012_544),
    'Qwen-Image': (dict(family='qwen_image'), diffusers.QwenImageTransformer2DModel, '',
                   20_430_401_088),
    'Query-Kontext': (dict(GENERATOR, family='qwen_image'),
                      diffusers.QwenImageTransformer2DModel, '', 9_939_494_976),
    'SD3': (dict(SD3, family='sd3'), diffusers.SD3Transformer2DModel, '', 866_776_384),
    'Z-Image': (dict(family='z_image'), diffusers.ZImageTransformer2DModel, '', 6_154_908_736),
    'IOMM-XL': (dict(family='z_image', cond_dim=1536), diffusers.ZImageTransformer2DModel, '',
                6_150_975_552),
    'Cosmos-Predict2.5 2B': (dict(family='cosmos'), diffusers.CosmosTransformer3DModel, '',
                             2_059_174_912),
    'SANA 1.6B': (dict(family='sana'), diffusers.SanaTransformer2DModel, '', 1_604_462_752),
    "FLUX's autoencoder": (dict(family='kl'), diffusers.AutoencoderKL, '', 83_819_683),
    "HunyuanVideo's autoencoder": (dict(family='hunyuan_video_vae'),
                                   diffusers.AutoencoderKLHunyuanVideo, '', 246_478_803),
    "Wan 2.1's autoencoder": (dict(family='wan_vae'), diffusers.AutoencoderKLWan, '',
                              126_892_531),
    "Qwen-Image's autoencoder": (dict(family='wan_vae'), diffusers.AutoencoderKLQwenImage, '',
                                 126_892_531),
    "SANA's autoencoder": (dict(family='dc_ae'), diffusers.AutoencoderDC, '', 312_250_275),
    'InternVL3-2B': (INTERNVL3_2B, transformers.InternVLForConditionalGeneration, 'modules',
                     2_088_957_440),
    'Qwen2.5-VL-7B': (QWEN2_5_VL_7B, transformers.Qwen2_5_VLForConditionalGeneration, 'modules',
                      8_292_166_656),
    'Llama-3-8B': (dict(LLAMA_3, family='llama'), transformers.LlamaModel, '', 7_504_924_672),
    'Qwen3-4B': (dict(QWEN3, family='qwen3'), transformers.Qwen3Model, '', 4_022_468_096),
    'T5 1.1 XXL': (T5_XXL, transformers.T5EncoderModel, '', 4_762_310_656),
    'CLIP-L': (CLIP_L, transformers.CLIPTextModel, '', 123_060_480),
    'CLIP ViT-B/32': (CLIP_B32, transformers.CLIPModel, '', 151_277_313),
    'CLIP ViT-L/14': (CLIP_L14, transformers.CLIPModel, '', 427_616_513),
    'SigLIP 2 B/16': (SIGLIP2_B16, transformers.SiglipModel, '', 375_187_970),
    'SigLIP 2 B/16 NaFlex': (SIGLIP2_B16_NAFLEX, transformers.Siglip2Model, '', 375_234_050),
    'DINO ViT-S/16': (DINO_S16, transformers.ViTModel, 'modules', 21_665_664),
    'DINOv2 B/14': (DINOV2_B14, transformers.Dinov2Model, 'modules', 86_579_712),
    'DINOv2 B/14 with registers': (DINOV2_REGISTERS_B14, transformers.Dinov2WithRegistersModel,
                                   'modules', 86_582_784),
}
RELEASES = [(family.name, layout.name, dict(release.fields))
            for family in families.TABLES.values()
            for layout in family.layouts for release in layout.published]


def test_every_family_with_a_class_is_here():
  assert {section['family'] for section, *_ in PUBLISHED.values()} == {
      name for name, family in families.TABLES.items() if family.layouts[0].name != 'jaxgen'}


@pytest.mark.parametrize('model', PUBLISHED)
def test_names_and_shapes_at_full_size(model):
  """Names and shapes of the class, made on torch's meta device."""
  fields, kind, layout, count = PUBLISHED[model]
  section = registry.section(**fields)
  family = families.TABLES[section['family']]
  config = family.write_config(section)
  with torch.device('meta'):
    theirs = (kind.from_config(config) if issubclass(kind, diffusers.ModelMixin) else
              kind(kind.config_class.from_dict(config)))
  layout = family.layout(layout)
  shapes = engine.names_and_shapes(layout.rules, families.shapes_of(section))
  assert shapes == {name: tuple(tensor.shape) for name, tensor in
                    layout.parameters(theirs.state_dict()).items()}
  assert families.size_of(shapes) == count


@pytest.mark.parametrize('name, layout, fields', RELEASES)
def test_releases_hold_the_same_numbers_under_other_names(name, layout, fields):
  family = families.TABLES[name]
  shapes = families.shapes_of(registry.section(name, **fields))
  ours, theirs = (families.size_of(engine.names_and_shapes(rules, shapes))
                  for rules in (family.rules, family.layout(layout).rules))
  assert ours == theirs


def test_the_documentation_names_every_family_and_class():
  text = (pathlib.Path(__file__).parents[2] / 'docs/conversion.md').read_text()
  for family in (*families.TABLES.values(), *families.TWINS):
    assert f'`{family.name}`' in text, family.name
    own = family.layouts[0].name == 'jaxgen'
    assert own or f'`{family.marker[1]}`' in text, family.marker
