"""Eight fake CPU devices, no network and a shared compilation cache; fixtures of all tests."""

import os
import pathlib
import sys

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['EPATH_USE_TF'] = '0'  # TensorFlow knows no S3
# Programs here are tiny and many: compiling them fast matters more than running them fast.
# Flags of the environment come last, and win: tests of another instruction set need them.
os.environ['XLA_FLAGS'] = ' '.join([
    '--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0',
    os.environ.get('XLA_FLAGS', '')])
os.environ.setdefault(
    'JAX_COMPILATION_CACHE_DIR', str(pathlib.Path('~/.cache/jaxgen').expanduser()))

import copy
import ctypes
import gc

import jax
import pytest
from ml_collections import ConfigDict

from jaxgen.config import base_config
from jaxgen.config import source
from jaxgen.data.commands import tokenizer_texts
from jaxgen.data.shapes import geneval
from jaxgen.data.tokenizer import train_tokenizer
from jaxgen.models.registry import section
from jaxgen.systems.registry import make_system


@pytest.fixture(scope='module', autouse=True)
def memory_returned():
  """Compiled programs of a file go with it: a process of the whole suite would hold gigabytes.

  What a later file needs of them comes from the compilation cache on disk.
  """
  yield
  jax.clear_caches()
  gc.collect()
  if sys.platform == 'linux':
    ctypes.CDLL('libc.so.6').malloc_trim(0)


@pytest.fixture(scope='session')
def tiny_tokenizer(tmp_path_factory) -> str:
  """Folder of a tokenizer for the captions of shapes."""
  folder = str(tmp_path_factory.mktemp('tiny_tokenizer'))
  train_tokenizer(tokenizer_texts(geneval.captions()), 512, folder)
  return folder


@pytest.fixture(scope='session')
def tiny_base(tiny_tokenizer) -> ConfigDict:
  """An IOMM of about 0.1 M parameters on 16 px shapes, all in fp32; copy before changing it."""
  config = base_config()
  config.model.update(
      compute_dtype='float32', frozen_dtype='float32',
      mllm=section(
          'internvl', image_token_id=5,
          vision=dict(image_size=8, patch_size=4, width=16, layers=2, heads=2, mlp=32),
          text=dict(vocab=512, width=32, layers=2, heads=4, kv_heads=2, mlp=64)),
      bridge=section('residual_queries', width=32, queries=4, heads=2),
      denoiser=section('mmdit', in_channels=48, cond_dim=32, width=32, heads=2, double_blocks=2,
                       single_blocks=2, axes_dims=(4, 6, 6)),
      autoencoder=section('pixel', factor=2))
  config.data.update(tokenizer=tiny_tokenizer, image_size=16, vision_size=8, visual_tokens=16,
                     prompt_tokens=40, threads=2)
  config.data.sources.pair = source('shapes', 'pair')
  config.data.sources.image = source('shapes', 'image')
  config.trainable = (('(mllm|autoencoder)/.*', False), ('.*', True))
  config.optimizer.update(learning_rate=1e-3, ema_decay=0.9)
  config.train.update(steps=20, rows=8, log_every=5, checkpoint_every=10)
  return config


@pytest.fixture
def tiny_config(tiny_base) -> ConfigDict:
  """A copy of ``tiny_base`` to change at will."""
  return copy.deepcopy(tiny_base)


@pytest.fixture(scope='session')
def tiny_system(tiny_base):
  """The system of ``tiny_base``."""
  return make_system(tiny_base)
