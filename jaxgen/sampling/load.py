"""A trained run, ready to draw from: config, system, parameters and tokenizer of a workdir."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from ml_collections import ConfigDict

from jaxgen.config import from_json
from jaxgen.core.types import Params
from jaxgen.checkpoints.weights import load_weights
from jaxgen.checkpoints.weights import read_config
from jaxgen.data.tokenizer import Tokenizer
from jaxgen.data.tokenizer import load_tokenizer
from jaxgen.sampling.generate import generate
from jaxgen.sharding.mesh import use_compilation_cache
from jaxgen.systems.base import System
from jaxgen.systems.registry import make_system


@dataclasses.dataclass(frozen=True)
class Run:
  """A system with its parameters; ``generate`` draws from it."""

  config: ConfigDict
  system: System
  params: Params
  tokenizer: Tokenizer

  def generate(self, texts: Sequence[str], **options) -> np.ndarray:
    """``jaxgen.sampling.generate.generate`` with this run's parts; uint8[n, H, W, 3]."""
    return generate(self.system, self.params, texts, tokenizer=self.tokenizer,
                    config=self.config, **options)


def load_run(workdir: str, weights: str = 'ema') -> Run:
  """Reads a workdir.

  Args:
    workdir: folder of a run; its newest complete checkpoint is taken.
    weights: ``ema`` (the plain parameters where the run keeps none) or ``params``.

  Raises:
    UserError: no such run, no checkpoint in it, or weights that do not fit its config.
  """
  use_compilation_cache()
  config = from_json(read_config(workdir))
  config.data.segments_per_row = 1  # packing is for training; here a row is an image
  system = make_system(config)
  params, _ = load_weights(workdir, system.groups, weights, shapes=system.shapes())
  return Run(config, system, params, load_tokenizer(config.data.tokenizer))
