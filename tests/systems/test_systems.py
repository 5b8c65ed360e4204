"""What every system must do: start, condition, denoise, train each stage, resume, sample, export.

A further system adds a row to ``CASES`` and passes the same tests.
"""

import copy
import dataclasses
import pathlib
from collections.abc import Callable

import jax
import numpy as np
import pytest
import tokenizers
from ml_collections import ConfigDict

from configs.duetgen import shapes as duetgen
from configs.flux import base as flux
from configs.imontage import shapes as imontage
from configs.query_kontext import shapes as query_kontext
from configs.qwen_image import base as qwen_image
from configs.z_image import base as z_image
from jaxgen.config import source
from jaxgen.conversion.commands import export
from jaxgen.conversion.pipelines import make_config
from jaxgen.conversion.tables.pipelines import KINDS
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.core.types import Batch
from jaxgen.data.loader import make_loader
from jaxgen.finetuning.fit import EIGHT_BITS
from jaxgen.finetuning.recipe import adapt
from jaxgen.models.registry import section
from jaxgen.objectives.registry import make_objectives
from jaxgen.objectives.registry import needed_groups
from jaxgen.planning.program import abstract_batch
from jaxgen.sampling.load import load_run
from jaxgen.sampling.request import make_request
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.rules import rule
from jaxgen.systems.registry import SYSTEMS
from jaxgen.systems.registry import make_system
from jaxgen.training.loop import train
from jaxgen.training.state import make_blueprint
from jaxgen.training.step import make_train_step
from tests.systems.small import shrink_duetgen
from tests.systems.small import shrink_query_kontext
from tests.training.launched import metrics_of


@dataclasses.dataclass(frozen=True)
class Case:
  """One system at a tiny size.

  Attributes:
    tiny: the tiny config of the tests (IOMM's) as one of this system.
    stages: name -> what the stage changes in it, in the order of training.
    requests: keyword arguments of ``make_request``, one for each task.
    exported: folders that ``jaxgen convert export`` writes; a model without parameters has none.
  """

  tiny: Callable[[ConfigDict], ConfigDict]
  stages: dict[str, Callable[[ConfigDict], None]]
  requests: tuple[dict, ...]
  exported: tuple[str, ...]


def _captions(config):
  config.data.sources = {'captions': source('shapes', 'caption')}
  config.data.visual_tokens = 0
  config.objective.update(flow_matching=0.0, next_token=1.0)
  config.trainable = (('mllm/.*', True), ('.*', False))


def _images(config):
  config.data.sources = {'images': source('shapes', 'image')}


def _imontage(tiny_base):
  config = imontage.tiny()
  config.model.text_encoder.update(width=32, layers=3, heads=4, mlp=64)
  config.model.text_encoder_2.update(width=16)
  config.model.denoiser.update(cond_dim=32, pooled_dim=16, width=32, heads=2, double_blocks=1,
                               single_blocks=1, axes_dims=(4, 6, 6))
  for group in ('text_encoder', 'text_encoder_2'):
    config.data.tower_tokenizers[group] = tiny_base.data.tokenizer
  config.data.prompt_tokens = 96
  config.data.sources = {'edits': source('shapes', 'edit', path='edit')}
  config.optimizer.update(name='adamw', warmup_steps=0)  # Muon takes long to compile
  config.train.update(rows=8)
  return config


def _flux(tiny_base):
  """Kontext, which takes images."""
  config = flux.get_config()
  config.model.update(compute_dtype='float32', frozen_dtype='float32')
  for group, made in dict(
      text_encoder=section('t5', vocab=512, width=32, layers=2, heads=4, head_channels=8, mlp=48),
      text_encoder_2=section('clip_text', vocab=512, width=16, layers=2, heads=2, mlp=32,
                             positions=96),
      denoiser=section('mmdit', in_channels=48, cond_dim=32, pooled_dim=16, guidance_embed=True,
                       width=32, heads=2, double_blocks=1, single_blocks=1, axes_dims=(4, 6, 6)),
      autoencoder=section('pixel', factor=2)).items():
    config.model[group], config.init_from[group] = ConfigDict(made), ''
  for group in ('text_encoder', 'text_encoder_2'):
    config.data.tower_tokenizers[group] = tiny_base.data.tokenizer
  config.data.update(image_size=16, visual_tokens=32, prompt_tokens=96, threads=2,
                     clean_roles=('source', 'reference', 'context'))
  config.data.sources = {'edits': source('shapes', 'edit', path='edit')}
  config.train.update(rows=8)
  return config


def _openuni(tiny_base):
  config = copy.deepcopy(tiny_base)
  with config.unlocked():
    config.system = 'openuni'
    for group, made in dict(
        bridge=section('learnable_queries', width=32, queries=4),
        connector=section('encoder_connector', width=32, layers=2, heads=2, mlp=48, out_width=24),
        denoiser=section('sana', in_channels=48, cond_dim=24, width=32, heads=4, cross_heads=2,
                         layers=1),
        autoencoder=section('pixel', factor=4)).items():
      config.model[group], config.init_from[group] = ConfigDict(made), ''
    config.data.shown = 'queries'
  return config


def _qwen_image(tiny_base):
  """An editor, whose prompts have no template."""
  config = qwen_image.trained(make_config(
      KINDS['QwenImageEditPipeline'], qwen_image.SECTIONS, qwen_image.SCHEDULER, ''))
  _shrink(
      config,
      mllm=section(
          'qwen2_5_vl',
          vision=dict(width=24, layers=2, heads=2, mlp=32, patch_size=4, window=16,
                      full_attention=(1,)),
          text=dict(vocab=512, width=32, layers=2, heads=2, kv_heads=1, mlp=64,
                    rope_sections=(2, 3, 3))),
      denoiser=section('qwen_image', in_channels=48, out_channels=48, cond_dim=32, width=32,
                       heads=2, layers=2, axes_dims=(4, 6, 6)),
      autoencoder=section('pixel', factor=2))
  config.data.update(tokenizer=tiny_base.data.tokenizer, dialect='plain', image_size=16,
                     reference_pixels=(32**2,), max_references=2, vision_area=0,
                     vision_pixels=(64, 256), patches=16, visual_tokens=80, prompt_tokens=96)
  config.data.sources = {'edits': source('shapes', 'edit', path='edit')}
  return config


def _z_image(tiny_base):
  config = z_image.get_config()
  _shrink(
      config,
      text_encoder=section('qwen3', vocab=513, width=32, layers=2, heads=2, kv_heads=1, mlp=64,
                           qkv_bias=False, qk_norm=True),
      denoiser=section('z_image', in_channels=48, cond_dim=32, width=32, heads=2, layers=2,
                       refiner_layers=1, axes_dims=(4, 6, 6)),
      autoencoder=section('pixel', factor=2))
  config.data.tower_tokenizers.text_encoder = _with_turns(tiny_base.data.tokenizer)
  config.data.update(image_size=16, visual_tokens=32, prompt_tokens=96)
  config.data.sources = {'captions': source('shapes', 'pair')}
  return config


def _shrink(config, **models):
  """Small models that begin at random, in place of published ones."""
  for group, made in models.items():
    config.model[group], config.init_from[group] = ConfigDict(made), ''
  config.model.update(compute_dtype='float32', frozen_dtype='float32')
  config.data.update(buckets='', threads=2)
  config.train.rows = 8
  config.optimizer.warmup_steps = 0
  config.mesh.update(data=-1, fsdp=1)


def _with_turns(folder):
  """A tokenizer beside this one that also knows what opens a turn."""
  backend = tokenizers.Tokenizer.from_file(f'{folder}/tokenizer.json')
  backend.add_special_tokens(['<|im_start|>'])
  pathlib.Path(f'{folder}_turns').mkdir(exist_ok=True)
  backend.save(f'{folder}_turns/tokenizer.json')
  return f'{folder}_turns'


def _pretrain(config):
  config.trainable = imontage.get_config('pretrain').trainable
  config.data.sources.video = source('shapes', 'edit', path='transition')


def _many(config):
  config.data.sources.update({name: source('shapes', 'many_to_many', path=drawn, fields=(
      ('count', '1-2'),)) for name, drawn in imontage.DRAWN.items()})


def _query_kontext(tiny_base):
  """Stage 3 without its adapter, which the stage adds."""
  config = query_kontext.get_config('stage3')
  shrink_query_kontext(config)
  config.data.tokenizer = tiny_base.data.tokenizer
  config.data.sources = {'images': source('shapes', 'pair', path='scene')}
  config.train.update(rows=8)
  return config


def _published(stage):
  """What the small config of a stage has besides its sizes."""
  def change(config):
    small = query_kontext.get_config(stage)
    config.model.lora = small.model.lora
    config.trainable, config.init_from.changes = small.trainable, small.init_from.changes
    config.data.update(clean_roles=small.data.clean_roles, sources=small.data.sources)

  return change


def _duetgen(tiny_base):
  config = duetgen.get_config('align')
  shrink_duetgen(config.model)
  config.data.update(tokenizer=tiny_base.data.tokenizer, prompt_tokens=400)
  config.optimizer.update(name='adamw', warmup_steps=0)
  config.train.update(rows=8)
  return config


def _dialogues(config):
  small = duetgen.get_config('ntp')
  config.trainable, config.objective = small.trainable, small.objective
  config.data.sources, config.data.visual_tokens = small.data.sources, 0


IMAGE = np.full((20, 24, 3), 200, np.uint8)
CASES = {
    'duetgen': Case(
        tiny=_duetgen,
        stages={'ntp': _dialogues, 'align': lambda config: None},
        requests=(dict(text='a red circle'),
                  dict(text='make it blue', source=[IMAGE], size=(16, 24)),
                  dict(text='both together', reference=[IMAGE, IMAGE], size=(8, 16))),
        exported=('connector', 'denoiser', 'mllm')),
    'flux': Case(
        tiny=_flux,
        stages={'edits': lambda config: None},  # adapters: tests/test_published.py
        requests=(dict(text='a red circle'),
                  dict(text='make it blue', source=[IMAGE], size=(16, 24))),
        exported=('denoiser', 'text_encoder', 'text_encoder_2')),
    'iomm': Case(
        tiny=lambda config: config,
        stages={'captions': _captions, 'images': _images, 'mixed': lambda config: None},
        requests=(dict(text='a red circle'), dict(text='a red circle', outputs=1, size=(16, 24)),
                  dict(text='make it blue', source=[IMAGE])),
        exported=('adapter', 'denoiser', 'mllm')),
    'imontage': Case(
        tiny=_imontage,
        stages={'pretrain': _pretrain, 'sft': _many},  # hq is the same program as sft
        requests=(dict(text='a red circle'),
                  dict(text='make it blue', source=[IMAGE], size=(16, 24)),
                  dict(text='a story', reference=[IMAGE, IMAGE], outputs=3, size=(16, 16)),
                  dict(text='turn left', source=[IMAGE], outputs=2, size=(8, 16))),
        exported=('denoiser', 'text_encoder', 'text_encoder_2')),
    'query_kontext': Case(
        tiny=_query_kontext,
        stages={stage: _published(stage) for stage in ('stage1', 'stage2', 'stage3')},
        requests=(dict(text='a red circle'),
                  dict(text='make it blue', source=[IMAGE], size=(16, 24)),
                  dict(text='both together', reference=[IMAGE, IMAGE], size=(8, 16))),
        exported=('adapter', 'connector', 'denoiser', 'mllm')),
    'openuni': Case(
        tiny=_openuni,
        stages={'mix': lambda config: None},
        requests=(dict(text='a red circle'), dict(text='make it blue', source=[IMAGE])),
        exported=('adapter', 'connector', 'denoiser', 'mllm')),
    'qwen_image': Case(
        tiny=_qwen_image,
        stages={'whole': lambda config: None},
        requests=(dict(text='a red circle'), dict(text='make it blue', source=[IMAGE]),
                  dict(text='both together', reference=[IMAGE, IMAGE], size=(8, 16))),
        exported=('denoiser', 'mllm')),
    'z_image': Case(
        tiny=_z_image,
        stages={'whole': lambda config: None},
        requests=(dict(text='a red circle'), dict(text='a red circle', size=(16, 24))),
        exported=('denoiser', 'text_encoder')),
}


@pytest.fixture(scope='module', params=sorted(SYSTEMS))
def case(request):
  return request.param, CASES[request.param]


@pytest.fixture(scope='module')
def tiny(case, tiny_base) -> ConfigDict:
  """The system at a tiny size; copy before changing it."""
  name, spec = case
  config = spec.tiny(tiny_base)
  assert config.system == name
  return config


@pytest.fixture(scope='module')
def runs(case, tiny, tmp_path_factory) -> dict[str, pathlib.Path]:
  """A workdir for each stage, every one started from the one before and trained for a step."""
  name, spec = case
  folder, held, found = tmp_path_factory.mktemp(name), (), {}
  for stage, change in spec.stages.items():
    config = copy.deepcopy(tiny)
    config.train.update(steps=1, checkpoint_every=1)
    config.optimizer.schedule = 'constant'  # more steps are then the same program
    config.sampling.update(steps=2, guidance=2.0)
    change(config)
    for group in held:
      if trees.flatten(make_system(config).shapes([group])):  # the pixel autoencoder has nothing
        config.init_from[group] = str(list(found.values())[-1])
    held = needed_groups(make_system(config), make_objectives(config))
    found[stage] = folder / stage
    assert train(config, str(found[stage]))
  return found


def test_every_stage_trains_and_the_last_one_resumes(case, runs):
  for stage, workdir in runs.items():
    [line] = metrics_of(workdir, 'loss', 'grad_norm', 'skipped')
    assert np.isfinite(line['loss']) and line['grad_norm'] > 0 and line['skipped'] == 0, stage
  last = list(runs.values())[-1]
  config = copy.deepcopy(load_run(str(last)).config)
  with config.unlocked():
    config.train.steps = 2
  assert train(config, str(last))
  assert [line['step'] for line in metrics_of(last, 'step')] == [1, 2]


@pytest.mark.parametrize('name', ['duetgen', 'iomm', 'openuni', 'qwen_image', 'query_kontext'])
def test_images_of_another_size_than_the_square_tower_reads_are_refused(name, tiny_base):
  """The tower would take the patches of one image for those of four, and say nothing."""
  config = copy.deepcopy(CASES[name].tiny(tiny_base))
  config.model.mllm = tiny_base.model.mllm
  config.data.vision_size = 16
  with pytest.raises(UserError, match=r'config\.data\.vision_size = 16: must equal '
                     r'config\.model\.mllm\.vision\.image_size = 8'):
    make_system(config)


def test_shapes_of_conditioning_and_velocity(tiny):
  system = make_system(tiny)
  loader = make_loader(tiny, system.layout)
  batch: Batch = next(loader).batch
  loader.close()
  params, rows = system.shapes(), len(batch.meta.rows)
  groups = batch.meta.sample_ids.shape[1]
  assert set(params) <= set(system.groups) == set(system.models)
  for method in ('condition', 'denoise', 'encode'):
    assert set(system.reads[method]) <= set(system.groups)
  conditioning = jax.eval_shape(system.condition, params, batch)
  assert conditioning.states.shape[0] == rows
  assert conditioning.positions.shape == (*conditioning.segments.shape, 3)
  velocity = jax.eval_shape(system.denoise, params, batch.visual.latents,
                            np.zeros((rows, groups), np.float32), batch.visual, conditioning)
  assert velocity.shape == batch.visual.latents.shape and velocity.dtype == np.float32


def test_every_axis_of_every_parameter_has_a_rule(tiny):
  system = make_system(tiny)
  axes, shapes = trees.flatten(system.axes()), trees.flatten(system.shapes())
  assert axes.keys() == shapes.keys()
  for path, names in axes.items():
    assert len(names) == shapes[path].ndim and all(map(rule, names)), path


def test_adapters_may_stand_beside_kernels_in_eight_bits(tiny):
  """QLoRA's use, for any system: what fine-tuning adapts is what it may quantise, and a step of
  the two is a program; tests/test_finetune_ways.py trains some."""
  config = copy.deepcopy(tiny).unlock()
  config.model.lora = ConfigDict()
  adapt(config, rank=2)
  config.model.quantized = EIGHT_BITS
  system, objectives = make_system(config), make_objectives(config)
  mesh = make_mesh(config.mesh)
  blueprint = make_blueprint(config, system, needed_groups(system, objectives), mesh)
  frozen = trees.flatten(blueprint.frozen)
  beside = {path.rpartition('/lora/')[0] for path in frozen if path.endswith('/lora/alpha')}
  assert beside and all(frozen[f'{module}/kernel'].dtype == np.int8 for module in beside)
  rows = partition.row_sharding(mesh, config.train.rows)
  step = make_train_step(config, system, objectives, blueprint.optimizer)
  with partition.scope(mesh):
    state, metrics = jax.eval_shape(step, blueprint.state, blueprint.frozen,
                                    abstract_batch(config, system.layout, rows))
  assert metrics['loss'].shape == ()
  assert set(trees.flatten(state.params)) == {
      f'{module}/lora/{name}' for module in beside for name in 'ab'}


def test_every_task_is_sampled(case, runs):
  run = load_run(str(list(runs.values())[-1]))
  requests = [make_request(run.config, number=number, **fields)
              for number, fields in enumerate(case[1].requests)]
  drawn = run.draw(requests)
  for request, images in zip(requests, drawn, strict=True):
    assert [image.shape[:2] for image in images] == [part.size for part in request.sample.targets]
    assert all(image.dtype == np.uint8 for image in images)


def test_every_group_is_exported(case, runs, tmp_path):
  written = export(str(list(runs.values())[-1]), str(tmp_path / 'out'))
  assert sorted(written) == sorted(case[1].exported)
  assert all(pathlib.Path(model['path']).exists() for model in written.values())
