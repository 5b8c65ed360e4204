"""The shipped configs hold the paper's numbers, and every one of them is valid."""

import importlib
import math
import pathlib

import jax
import pytest

from jaxgen.config import load_config
from jaxgen.config import validate
from jaxgen.core import trees
from jaxgen.systems.registry import make_system

ROOT = pathlib.Path(__file__).parents[2]
# Ledger L091 and L092: parameters of the denoiser in billions, global batch, EMA, image side,
# optimizer, mask ratio.
PAPER = {
    'pretrain_b': (1.57, 1024, 0.999, 512, 'adamw', 0.85),
    'pretrain_l': (2.79, 512, 0.0, 512, 'adamw', 0.85),
    'pretrain_xl': (6.15, 4096, 0.0, 512, 'muon', 0.45),
    'finetune_b_512': (1.57, 256, 0.999, 512, 'adamw', 0.85),
    'finetune_b_1024': (1.57, 96, 0.999, 1024, 'adamw', 0.85),
    'finetune_l_512': (2.79, 256, 0.0, 512, 'adamw', 0.85),
    'finetune_l_1024': (2.79, 96, 0.0, 1024, 'adamw', 0.85),
    'finetune_xl_512': (6.15, 256, 0.0, 512, 'muon', 0.45),
}
SMALL = ['tiny.py', 'lora_tiny.py', 'quickstart.py:mllm', 'quickstart.py:pretrain',
         'quickstart.py:finetune', 'photos.py:mllm', 'photos.py:pretrain', 'photos.py:finetune',
         'edits.py:mllm', 'edits.py:finetune']


def _count(shapes):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize('name', PAPER)
def test_numbers_of_the_paper(name):
  billions, rows, ema, side, optimizer, mask = PAPER[name]
  config = load_config(str(ROOT / f'configs/iomm/{name}.py'))
  validate(config)
  system = make_system(config)
  sizes = {group: _count(shapes) for group, shapes in system.shapes().items()}
  assert round(sizes['denoiser'] / 1e9, 2) == billions
  assert round(sizes['bridge'] / 1e6, 1) == 28.7
  assert round(sizes['mllm'] / 1e9, 2) == 2.09
  found = (config.train.rows, config.optimizer.ema_decay, config.data.image_size)
  assert found == (rows, ema, side)
  assert (config.optimizer.name, config.optimizer.learning_rate) == (optimizer, 1e-4)
  assert (config.optimizer.b1, config.optimizer.b2) == (0.9, 0.95)
  assert (config.optimizer.clip_norm, config.optimizer.weight_decay) == (1.0, 0.0)
  assert config.model.mask_ratio == mask and config.model.bridge.queries == 256
  assert config.data.visual_tokens == (side // system.layout.latent.factor) ** 2
  shares = {source.task: source.share for source in config.data.sources.values()}
  assert shares == ({'image': (1.0,)} if 'pretrain' in name else {'image': (.5,), 'pair': (.5,)})
  trains = trees.match_rules(list(trees.flatten(system.shapes())), config.trainable, 'trainable')
  groups = {path.split('/')[0] for path, value in trains.items() if value}
  assert groups == {'bridge', 'denoiser'}


@pytest.mark.parametrize('name', SMALL)
def test_small_configs_are_valid(name):
  config = load_config(str(ROOT / 'configs/iomm' / name))
  validate(config)
  system = make_system(config)
  assert _count(system.shapes()) < 6e6


def test_every_config_says_how_it_is_run():
  for path in sorted((ROOT / 'configs/iomm').glob('*.py')):
    module = importlib.import_module(f'configs.iomm.{path.stem}')
    text = module.__doc__
    derived_from = 'derived from' in text or path.stem == '__init__'
    assert derived_from or 'jaxgen train' in text or 'make ' in text or 'launch/' in text, path


# Ledger L093: parameters in billions that train, global batch, EMA, epochs of 210,000 images.
UMM = {'openuni_l_mix': (1.83, 256, 0.999, 12), 'qwen_image_mix': (0.42, 48, 0.0, 5)}


@pytest.mark.parametrize('name', UMM)
@pytest.mark.parametrize('recipe', ['mix', 'image', 'pair'])
def test_numbers_of_table_6(name, recipe):
  billions, rows, ema, epochs = UMM[name]
  config = load_config(str(ROOT / f'configs/iomm/{name}.py:{recipe}'))
  validate(config)
  found = (config.optimizer.name, config.optimizer.learning_rate, config.optimizer.b1,
           config.optimizer.b2, config.optimizer.clip_norm, config.optimizer.weight_decay)
  assert found == ('adamw', 1e-4, 0.9, 0.95, 1.0, 0.0)
  assert (config.train.rows, config.optimizer.ema_decay) == (rows, ema)
  assert config.train.steps == pytest.approx(epochs * 210_000 / rows, rel=0.01)
  assert config.model.mask_ratio == 0.85 and config.data.image_size == 512
  shares = {source.task: source.share for source in config.data.sources.values()}
  assert shares == ({'image': (.5,), 'pair': (.5,)} if recipe == 'mix' else {recipe: (1.0,)})
  if recipe != 'mix':
    return
  system = make_system(config)
  trains = trees.match_rules(list(trees.flatten(system.shapes())), config.trainable, 'trainable')
  leaves = trees.flatten(system.shapes())
  trained = {path for path, value in trains.items() if value}
  assert round(sum(math.prod(leaves[path].shape) for path in trained) / 1e9, 2) == billions
  if name == 'openuni_l_mix':
    assert {path.split('/')[0] for path in trained} == {'bridge', 'connector', 'denoiser'}
  else:
    assert all('/lora/' in path and path.startswith('denoiser/') for path in trained)
    adapter, = config.model.lora.values()
    assert (adapter.rank, adapter.alpha) == (64, 64.0)
