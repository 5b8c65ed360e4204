"""Configs of iMontage: every number of the paper's Table 5 and its schedules."""

import json

import pytest

from configs.imontage import base
from configs.imontage import hq
from configs.imontage import photos
from configs.imontage import pretrain
from configs.imontage import sft
from configs.imontage import shapes
from jaxgen.config.shares import Shares
from jaxgen.config.validate import validate
from jaxgen.core.errors import UserError
from jaxgen.data.buckets import CANONICAL_BUCKETS
from jaxgen.data.buckets import bucket_set
from jaxgen.systems.registry import make_system

STAGES = {'pretrain': pretrain, 'sft': sft, 'hq': hq}
# Steps, warm-up, weight decay, schedule (L026-L028).
TABLE = {'pretrain': (50_000, 1000, 0.0, 'constant'), 'sft': (15_000, 500, 0.01, 'constant'),
         'hq': (2_000, 0, 0.01, 'cosine')}


def shares(config, progress):
  mixture = Shares({name: spec.share for name, spec in config.data.sources.items()},
                   config.data.interpolation)
  return dict(zip(mixture.names, mixture.at(progress), strict=True))


@pytest.mark.parametrize('stage', STAGES)
def test_table_5(stage):
  config = STAGES[stage].get_config()
  validate(config)
  optimizer = config.optimizer
  assert (config.train.steps, optimizer.warmup_steps, optimizer.weight_decay,
          optimizer.schedule) == TABLE[stage]
  assert optimizer.name == 'adamw' and optimizer.learning_rate == 1e-5
  assert (optimizer.b1, optimizer.b2, optimizer.eps, optimizer.clip_norm) == (0.9, 0.999, 1e-8, 1.0)
  assert config.objective.timestep_shift == 5.0 and config.objective.timesteps == 'logit_normal'
  assert config.data.dropout.to_dict() == dict(all=0.0, text=0.1, last_text=0.0, vision=0.0,
                                               latents=0.0)
  assert config.trainable == (('denoiser/.*', True), ('.*', False))
  assert (config.sampling.steps, config.sampling.guidance) == (50, 6.0)


def test_the_published_model():
  system = make_system(pretrain.get_config())
  denoiser = system.models['denoiser'].config
  assert (denoiser.double_blocks, denoiser.single_blocks, denoiser.width, denoiser.heads,
          denoiser.axes_dims, denoiser.theta, denoiser.guidance_embed, denoiser.clean_time) == (
              20, 40, 3072, 24, (16, 56, 56), 256.0, True, 'same')
  assert system.layout.scheme == 'marginal' and system.guidance == 1.0
  assert system.layout.latent.factor == 16 and system.layout.latent.channels == 64
  assert {group: text.length for group, text in system.layout.towers.items()} == {
      'text_encoder': 256, 'text_encoder_2': 77}


def test_rows_of_pretraining_hold_the_batches_of_the_paper():
  config = pretrain.get_config()
  assert bucket_set(config.data.buckets) == CANONICAL_BUCKETS
  for side, pairs in ((512, 8), (768, 4), (1024, 2)):  # L021
    assert pairs * 2 * (side // 16)**2 <= config.data.visual_tokens
    assert pairs <= config.data.segments_per_row


@pytest.mark.parametrize('stage', STAGES)
def test_rows_and_their_tokens_divide_over_64_devices(stage):
  config = STAGES[stage].get_config()
  mesh, tokens = config.mesh, config.data.visual_tokens
  assert mesh.data * mesh.fsdp * mesh.context * mesh.tensor == 64
  # Every device computes on a share of one row at a time.
  assert config.train.rows == mesh.data * mesh.fsdp * config.train.accumulate == 64
  assert tokens % mesh.context == 0
  assert tokens == (18_432 if stage == 'pretrain' else 8 * (1024 // 16)**2)


@pytest.mark.parametrize('progress, video', [(0, 0.75), (0.5, 0.5), (1, 0.25)])
def test_the_ramp_of_pretraining(progress, video):
  assert shares(pretrain.get_config(), progress) == pytest.approx(
      {'video': video, 'edits': 1 - video})


@pytest.mark.parametrize('schedule', ['cocktail', 'stage', 'flat'])
def test_schedules_of_the_tasks_leave_a_tenth_to_edits(schedule):
  config = sft.get_config(schedule)
  validate(config)
  phases = {'cocktail': 6, 'stage': 2, 'flat': 1}[schedule]
  for phase in range(phases):
    found = shares(config, (phase + 0.5) / phases)
    tasks = {name: share for name, share in found.items() if share and name != 'edits'}
    assert found['edits'] == pytest.approx(0.1) and sum(tasks.values()) == pytest.approx(0.9)
    if schedule == 'cocktail':
      assert set(tasks) == set(base.ORDER[:phase + 1])
      assert tasks[base.ORDER[phase]] == pytest.approx(0.9 * (0.8 if phase else 1))
    else:
      assert len(tasks) == (3 if schedule == 'stage' and not phase else 6)
      assert len({round(share, 6) for share in tasks.values()}) == 1  # inverse to the sizes


def test_a_probe_gives_the_order_of_the_tasks(tmp_path):
  folder = tmp_path / 'probe'
  folder.mkdir()
  losses = dict(zip((*reversed(base.ORDER), 'edits'), (1, 2, 3, 4, 5, 6, 0.5)))
  (folder / 'summary.json').write_text(json.dumps({'losses': {'probe': losses}}))
  assert sft.order(str(folder)) == base.ORDER[::-1]
  config = sft.get_config(f'cocktail:{folder}')
  validate(config)
  assert shares(config, 0) == pytest.approx(
      dict.fromkeys(base.ORDER, 0) | {'edits': 0.1, base.ORDER[-1]: 0.9})
  del losses['storyboard']
  (folder / 'summary.json').write_text(json.dumps({'losses': {'probe': losses}}))
  with pytest.raises(UserError, match=r"summary.json = \['storyboard'\]: no losses of these tasks"):
    sft.get_config(f'cocktail:{folder}')
  with pytest.raises(UserError, match='nowhere/summary.json: damaged .*train sft.py:flat there'):
    sft.get_config('cocktail:nowhere')


def test_hq_halves():
  found = shares(hq.get_config(), 0.3)
  assert found.pop('edits') == pytest.approx(0.5)
  assert found == pytest.approx(dict.fromkeys(base.ORDER, 0.5 / 6))


@pytest.mark.parametrize('stage', shapes.STEPS)
def test_the_small_stages_are_whole(stage):
  config = shapes.get_config(stage)
  validate(config)
  make_system(config)


def test_photographs_are_trained_on_at_the_path_that_is_given(tmp_path):
  config = photos.get_config(str(tmp_path))
  validate(config)
  layout = make_system(config).layout
  assert {spec.path for spec in config.data.sources.values()} == {str(tmp_path)}
  # One given image and three outputs fill a row.
  assert (config.data.image_size // layout.latent.factor) ** 2 * 4 == config.data.visual_tokens
