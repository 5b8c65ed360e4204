"""Configs of Query-Kontext: every number of the paper's Table 3 and of its appendix."""

import math

import pytest

from configs.query_kontext import photos
from configs.query_kontext import shapes
from configs.query_kontext import stage1
from configs.query_kontext import stage2
from configs.query_kontext import stage3
from configs.query_kontext import stage3_1024
from jaxgen.config.validate import validate
from jaxgen.core import trees
from jaxgen.data.buckets import bucket_set
from jaxgen.models.layers.lora import is_adapter
from jaxgen.systems.registry import make_system
from jaxgen.training.state import trainable_paths

STAGES = {'stage1': stage1, 'stage2': stage2, 'stage3': stage3, 'stage3_1024': stage3_1024}
# Samples of a step, steps, rate, pixels, low-level branch (L060-L063).
TABLE = {'stage1': (512, 72_000, 1e-4, 512, False), 'stage2': (1024, 420_000, 1e-4, 512, False),
         'stage3': (512, 30_000, 2e-5, 512, True), 'stage3_1024': (256, 3_000, 1e-5, 1024, True)}
# What trains: a group, or its adapter.
TRAINED = {'stage1': {'mllm/lora', 'bridge', 'connector', 'denoiser'},
           'stage2': {'bridge', 'connector', 'denoiser'},
           'stage3': {'bridge', 'connector', 'denoiser/lora'},
           'stage3_1024': {'bridge', 'connector', 'denoiser/lora'}}
SHARES = {'stage1': {'english', 'chinese', 'reconstruction', 'transformation'},
          'stage2': {'english', 'chinese', 'reconstruction'},
          'stage3': {'english', 'chinese', 'reconstruction', 'editing', 'customised',
                     'multi_subject'}}


def millions(system, group):
  leaves = trees.flatten(system.shapes([group])[group])
  return sum(math.prod(leaf.shape) for path, leaf in leaves.items() if not is_adapter(path)) / 1e6


@pytest.fixture(scope='module', params=STAGES)
def stage(request):
  config = STAGES[request.param].get_config()
  validate(config)
  return request.param, config, make_system(config)


def test_table_3(stage):
  name, config, system = stage
  samples, steps, rate, pixels, low_level = TABLE[name]
  per_row = 2 if low_level else 1  # on average; see the docstrings
  assert config.train.rows * per_row == samples
  assert (config.train.steps, config.optimizer.learning_rate) == (steps, rate)
  assert config.data.image_size == pixels and config.data.buckets == f'ratios:{pixels}'
  assert config.data.clean_roles == (('source', 'reference') if low_level else ())
  assert set(config.data.sources) == SHARES[name.removesuffix('_1024')]
  assert sum(spec.share[0] for spec in config.data.sources.values()) == pytest.approx(1)
  trained = set()
  for path, trains in trainable_paths(config, system, system.groups).items():
    if trains:
      trained.add(path.split('/')[0] + ('/lora' if is_adapter(path) else ''))
  assert trained == TRAINED[name]


def test_the_published_models(stage):
  """Sizes of appendix D (L051-L055), the head's by SD3's rule (A11)."""
  name, config, system = stage
  tower, text = system.models['mllm'].config.vision, system.models['mllm'].config.text
  assert (tower.layers, tower.heads, tower.width // tower.heads, tower.patch_size) == (
      32, 16, 80, 14)
  assert (text.layers, text.heads, text.kv_heads, text.width // text.heads, text.mlp) == (
      28, 28, 4, 128, 18_944)
  denoiser = system.models['denoiser'].config
  blocks = (denoiser.layers, denoiser.heads, denoiser.width // denoiser.heads)
  assert blocks == ((18, 18, 64) if name == 'stage1' else (42, 40, 64))
  assert millions(system, 'denoiser') == pytest.approx(868 if name == 'stage1' else 9_939, abs=1)
  assert millions(system, 'connector') == pytest.approx(5.90, abs=0.005)
  assert system.layout.queries == 128 and system.layout.latent.channels == 4 * 16
  ranks = {entry.modules.split('/')[0]: (entry.rank, entry.alpha)
           for entry in config.model.lora.values()}
  assert ranks == {'stage1': {'mllm': (128, 256.0)}, 'stage2': {}}.get(
      name, {'denoiser': (256, 256.0)})  # L064


def test_rows_hold_a_sample_of_every_aspect_with_two_references(stage):
  """512 words, 128 kontext tokens (L056), images of the MLLM with the two tokens around them."""
  name, config, _ = stage
  data = config.data
  largest = max(height * width // 16**2 for height, width in bucket_set(data.buckets))
  clean = 2 if data.clean_roles else 0
  assert data.visual_tokens >= (1 + clean) * largest
  assert data.max_references == 2  # N (L049)
  shown = 1 if name == 'stage2' else 2
  tokens = data.vision_pixels[1] // 28**2
  assert data.patches >= shown * 4 * tokens and data.patches % 4 == 0
  assert data.prompt_tokens >= 512 + 128 + shown * (tokens + 2)


def test_a_stage_takes_over_what_the_one_before_trained():
  assert stage2.get_config().init_from.changes == ((r'mllm/.*/lora/.*', 'merge'),)
  for config, before in ((stage2, 'stage1'), (stage3, 'stage2'), (stage3_1024, 'stage3')):
    places = config.get_config().init_from
    for group in ('mllm', 'bridge', 'connector'):
      assert places[group] == f'runs/query_kontext/{before}'
  assert stage2.get_config().init_from.denoiser == 'weights/mmdit_10b'  # the head is not kept
  assert stage3_1024.get_config().init_from.denoiser == 'runs/query_kontext/stage3'


@pytest.mark.parametrize('name', shapes.STEPS)
def test_the_small_stages_are_whole(name):
  config = shapes.get_config(name)
  validate(config)
  make_system(config)
  if name in STAGES:
    published = STAGES[name].get_config()
    assert config.trainable == published.trainable
    assert sum(spec.share[0] for spec in config.data.sources.values()) == pytest.approx(1)
    assert config.data.clean_roles == published.data.clean_roles


def test_photographs_fill_a_row_with_a_reference_and_a_target():
  config = photos.get_config('somewhere')
  validate(config)
  system = make_system(config)
  assert config.data.visual_tokens == 2 * (config.data.image_size // system.layout.latent.factor)**2
  assert config.data.clean_roles == ('source', 'reference')
  only, = config.data.sources.values()
  assert (only.path, only.limit, only.task) == ('somewhere', config.train.rows, 'reference')
