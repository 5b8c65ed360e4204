"""Where metrics go beside metrics.jsonl: TensorBoard, and Weights & Biases if asked.

``train.wandb`` names a project there. A run that goes on after an interruption is the same run
there too: ``wandb.json`` in the workdir keeps its id. ``WANDB_MODE=offline`` writes into the
workdir alone.
"""

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from collections.abc import Mapping
from typing import Protocol

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from jaxgen.core import quiet
from jaxgen.core.errors import user_error
from jaxgen.core.files import in_bucket
from jaxgen.core.files import one_line
from jaxgen.core.files import read_json
from jaxgen.core.files import write_text

FIELD = 'config.train.wandb'
FILE = 'wandb.json'


class Tracker(Protocol):
  """What gets the metrics of log steps, and what validation finds and draws."""

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds those of a step."""

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Adds those of a step, uint8[N, H, W, 3] by name."""

  def close(self) -> None:
    """Sends what is left."""


def check(config: ConfigDict) -> None:
  """Raises a ``UserError`` where ``train.wandb`` cannot be had, before anything is computed."""
  project = config.train.wandb
  if not project:
    return
  if not re.fullmatch(r'([\w.-]+/)?[^/\\#?%:]{1,128}', project):
    raise user_error(FIELD, project, 'write PROJECT or OWNER/PROJECT')
  try:
    import wandb  # only where it is asked for
  except ImportError as error:
    raise user_error(FIELD, project, "wandb is not installed; `pip install 'jaxgen[wandb]'`, or "
                     'leave it empty') from error
  if os.environ.get('WANDB_MODE', 'online') not in ('offline', 'disabled'):
    with _reached(project):
      wandb.login()  # asks for a key where there is a terminal


def opened(config: ConfigDict, workdir: epath.Path) -> list[Tracker]:
  """The trackers of a run.

  Raises:
    UserError: Weights & Biases cannot be reached.
  """
  quiet.settle_tensorflow(os.environ)
  # Imported here because it loads TensorFlow, which takes seconds.
  from clu.metric_writers.summary_writer import SummaryWriter
  board = SummaryWriter(str(workdir))
  return [board, _Wandb(config, workdir)] if config.train.wandb else [board]


class _Wandb:
  """A run on Weights & Biases."""

  def __init__(self, config: ConfigDict, workdir: epath.Path):
    import wandb
    owner, _, project = config.train.wandb.rpartition('/')
    file = workdir / FILE
    known = file.exists()
    name = read_json(file, 'remove it')['id'] if known else uuid.uuid4().hex[:16]
    if not known:
      write_text(file, json.dumps({'id': name}))
    with _reached(config.train.wandb):
      self._run = wandb.init(
          entity=owner or None, project=project, id=name, name=workdir.name, resume='allow',
          dir=None if in_bucket(workdir) else str(workdir), config=config.to_dict(),
          settings=wandb.Settings(console='off', silent=True))
    # Steps that were lost with an interruption come again.
    self._run.define_metric('*', step_metric='step')

  def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
    """Adds those of a step."""
    self._run.log({'step': step, **scalars})

  def write_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
    """Adds those of a step, uint8[N, H, W, 3] by name."""
    import wandb
    self._run.log({'step': step, **{name: [wandb.Image(image) for image in several]
                                    for name, several in images.items()}})

  def close(self) -> None:
    """Sends what is left."""
    self._run.finish()


@contextlib.contextmanager
def _reached(project: str) -> Iterator[None]:
  from wandb import errors
  try:
    yield
  except errors.Error as error:
    raise user_error(FIELD, project, f'Weights & Biases refuses it ({one_line(error)}); run '
                     '`wandb login`, or set WANDB_MODE=offline and `wandb sync` later') from error
