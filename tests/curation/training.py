"""One train step of the smallest system of each paper, on what a recipe has made."""

import json
import pathlib
from collections.abc import Mapping

from ml_collections import ConfigDict

from configs.duetgen import shapes as duetgen
from configs.imontage import shapes as imontage
from configs.query_kontext import shapes as query_kontext
from jaxgen.config import source
from jaxgen.training.loop import train
from tests.systems.small import shrink_duetgen
from tests.systems.small import shrink_query_kontext


def _imontage(tokenizer: str) -> ConfigDict:
  config = imontage.tiny()
  for group in ('text_encoder', 'text_encoder_2'):
    config.data.tower_tokenizers[group] = tokenizer
  config.model.text_encoder.update(width=32, layers=1, mlp=64)
  config.model.text_encoder_2.update(width=16)
  config.model.denoiser.update(cond_dim=32, pooled_dim=16, width=32, heads=2, double_blocks=1,
                               single_blocks=1, axes_dims=(4, 6, 6))
  return config


def _duetgen(tokenizer: str) -> ConfigDict:
  config = duetgen.get_config('align')
  shrink_duetgen(config.model)
  config.data.tokenizer = tokenizer
  return config


def _query_kontext(tokenizer: str) -> ConfigDict:
  config = query_kontext.get_config('stage3')
  shrink_query_kontext(config)
  config.trainable, config.init_from.changes = config.trainable[1:], ()  # the adapter is gone
  config.data.tokenizer = tokenizer
  return config


SMALL = {'imontage': _imontage, 'duetgen': _duetgen, 'query_kontext': _query_kontext}


def train_one_step(system: str, folders: Mapping[str, tuple[str, pathlib.Path]], tokenizer: str,
                   workdir: pathlib.Path) -> float:
  """The loss of one step on the samples of all folders; names lead to their task and place.

  No record may be left out, and no folder.
  """
  config = SMALL[system](tokenizer)
  config.data.sources = ConfigDict({name: source('arrayrecord', task, path=str(folder))
                                    for name, (task, folder) in folders.items()})
  config.data.max_bad_share = 0.0
  # Of what takes long to compile nothing matters here.
  config.optimizer.update(name='adamw', warmup_steps=0, ema_decay=0.0)
  # So many rows that samples of every folder are among them, whatever is drawn.
  config.train.update(steps=1, rows=8 * -(-len(folders) // 4), log_every=1, checkpoint_every=1)
  assert train(config, str(workdir))
  line, = map(json.loads, (workdir / 'metrics.jsonl').read_text().splitlines())
  assert {name.rpartition('/')[2] for name in line if '/loss_source/' in name} >= set(folders)
  return line['loss']
