"""Configs of DuetGen: every number of the paper's section 4, Cosmos' recipe where it has none."""

import math

import pytest

from configs.duetgen import base
from configs.duetgen import joint
from configs.duetgen import shapes
from configs.duetgen import stage1
from configs.duetgen import stage2
from jaxgen.config.validate import validate
from jaxgen.core import trees
from jaxgen.data.buckets import bucket_set
from jaxgen.data.vision import fitted_size
from jaxgen.systems.registry import make_system
from jaxgen.training.state import trainable_paths

STAGES = {'stage1': stage1, 'stage2': stage2, 'joint': joint}
TRAINED = {'stage1': {'mllm'}, 'stage2': {'connector', 'denoiser'},
           'joint': {'mllm', 'connector', 'denoiser'}}  # L114, L115
ALIGNMENT = {'video', 'text_to_image', 'edits', 'references'}  # L124, L125
TOLD, DRAWN = {'web_conversation', 'synthetic_conversation'}, {'web_dialogue', 'synthetic_dialogue'}
SOURCES = {'stage1': TOLD, 'stage2': ALIGNMENT | DRAWN, 'joint': ALIGNMENT | TOLD | DRAWN}


def share(config, names):
  return sum(config.data.sources[name].share[0] for name in names)


@pytest.fixture(scope='module', params=STAGES)
def stage(request):
  config = STAGES[request.param].get_config()
  validate(config)
  return request.param, config, make_system(config)


def test_what_each_stage_trains_on_what(stage):
  name, config, system = stage
  paths = trainable_paths(config, system, system.groups)
  assert {path.split('/')[0] for path, trains in paths.items() if trains} == TRAINED[name]
  assert set(config.data.sources) == SOURCES[name]  # no alignment data in stage 1 (L114)
  assert share(config, SOURCES[name]) == pytest.approx(1)
  for kind, names in (('conversation', TOLD), ('dialogue', DRAWN)):
    if names <= SOURCES[name]:  # 268k of the web to 30k - 700 synthetic ones (L120, L123)
      assert share(config, [f'web_{kind}']) / share(config, names) == pytest.approx(
          268_000 / 297_300)
  objective = config.objective
  assert (objective.next_token > 0, objective.flow_matching > 0) == (
      name != 'stage2', name != 'stage1')
  assert config.data.bov_weight == 1 and not config.data.bov_token  # Qwen's own (A20)


def test_the_published_models(stage):
  _, config, system = stage
  text = system.models['mllm'].config.text
  assert (text.layers, text.width, text.heads, text.kv_heads, text.mlp) == (28, 3584, 28, 4, 18_944)
  connector = trees.flatten(system.shapes(['connector'])['connector'])
  assert {path: leaf.shape for path, leaf in connector.items()} == {
      'projector/kernel': (100_352, 1024), 'projector/bias': (1024,)}  # L111
  denoiser = system.models['denoiser'].config
  assert (denoiser.layers, denoiser.width, denoiser.heads, denoiser.mlp_ratio,
          denoiser.modulation_rank, denoiser.rope_scale, denoiser.condition_mask,
          denoiser.clean_time) == (28, 2048, 16, 4.0, 256, (1.0, 3.0, 3.0), True, -1.0)  # L139
  drawing = system.shapes(['connector', 'denoiser'])
  count = sum(math.prod(leaf.shape) for leaf in trees.flatten(drawing).values())
  assert count / 1e9 == pytest.approx(2.06, abs=0.005)
  latent = system.layout.latent
  assert (latent.factor, latent.channels, system.layout.scheme) == (16, 64, 'per_image')  # L112
  assert system.layout.queries == 0 and config.data.shown == 'preceding'  # L110


def test_cosmos_recipe(stage):
  name, config, _ = stage
  optimizer = config.optimizer
  assert config.objective.timesteps == 'logit_normal' and config.objective.timestep_shift == 5.0
  assert optimizer.name == 'adamw' and optimizer.warmup_steps == 100
  assert config.data.dropout.to_dict() == dict(all=0.0, text=0.0, last_text=0.2, vision=0.0,
                                               latents=0.0)
  found = (optimizer.learning_rate, optimizer.weight_decay, optimizer.b1, optimizer.b2,
           optimizer.clip_norm)
  assert found == ((1e-5, 0.0, 0.9, 0.95, 1.0) if name == 'stage1' else
                   (3e-5, 1e-3, 0.9, 0.999, 0.1))
  assert not config.objective.cosmos_mean
  sampling = config.sampling
  assert (sampling.steps, sampling.solver, sampling.guidance, sampling.timestep_shift) == (
      35, 'unipc', 5.0, 5.0)


def test_rows_hold_a_dialogue_of_eight_images(stage):
  name, config, system = stage
  data = config.data
  assert config.train.rows == 64  # one for each device
  assert config.mesh.fsdp == (8 if name == 'stage1' else 64)
  largest = max(height * width // 16**2 for height, width in bucket_set(data.buckets))
  assert (768, 768) in bucket_set(data.buckets)
  seen = max(math.prod(fitted_size(height, width, factor=28, min_pixels=data.vision_pixels[0],
                                   max_pixels=data.vision_pixels[1], max_side=data.vision_side))
             for height, width in bucket_set(data.buckets)) // 28**2
  assert seen == base.SEEN == 17**2 and data.vision_side == 480  # L113
  assert data.patches >= 8 * 4 * seen and data.patches % 4 == 0
  assert data.prompt_tokens >= 8 * (seen + 2) + 1500
  assert data.visual_tokens == (0 if name == 'stage1' else base.LATENTS)
  assert 0 <= base.LATENTS - 8 * largest < 128
  assert system.layout.vision.kind == 'native'


def test_stage_2_starts_from_stage_1_and_from_one_release():
  places = stage2.get_config().init_from
  assert places.mllm == 'runs/duetgen/stage1' and places.connector == places.denoiser
  assert joint.get_config().init_from.mllm == stage1.get_config().init_from.mllm


@pytest.mark.parametrize('name', shapes.STEPS)
def test_the_small_stages_are_whole(name):
  config = shapes.get_config(name)
  validate(config)
  system = make_system(config)
  trained = trainable_paths(config, system, system.groups)
  assert sum(spec.share[0] for spec in config.data.sources.values()) == pytest.approx(1)
  if name in shapes.PUBLISHED:
    published = shapes.PUBLISHED[name].get_config()
    assert config.trainable == published.trainable
    assert config.data.sources.keys() == published.data.sources.keys()
  assert config.data.shown == 'preceding' and config.data.scheme == 'per_image'
  assert any(trained.values())
