"""A tiny DuetGen whose language model reads as any and writes what stands in a script."""

import dataclasses
import pathlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from PIL import Image

from configs.duetgen import shapes
from jaxgen.checkpoints.weights import save_weights
from jaxgen.config import to_json
from jaxgen.core import trees
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Sample
from jaxgen.models.encoders.qwen2_5_vl import Qwen2_5VL
from jaxgen.systems.registry import make_system


class Scripted(Qwen2_5VL):
  """Reads as the real one; which token it writes behind each position stands in its script."""

  script: tuple[int, ...] = ()

  def extend(self, embeddings, positions, segments, cache, slot):
    hidden, cache = super().extend(embeddings, positions, segments, cache, slot)
    return jnp.broadcast_to(positions[..., :1], hidden.shape).astype(hidden.dtype), cache

  def logits(self, hidden):
    place = hidden[..., 0].astype(jnp.int32)
    return jax.nn.one_hot(jnp.asarray(self.script)[place], self.config.text.vocab)


def duetgen(tokenizer: str):
  """Its config at a tiny size."""
  config = shapes.get_config('align')
  config.model.mllm.vision.update(width=24, layers=1, heads=2, mlp=32, full_attention=(0,))
  config.model.mllm.text.update(width=32, layers=2, heads=2, kv_heads=1, mlp=64,
                                rope_sections=(2, 3, 3))
  config.model.connector.update(width=32, layers=2, out_width=32)
  config.model.denoiser.update(cond_dim=32, text_dim=32, width=64, heads=2, layers=1)
  config.data.update(tokenizer=tokenizer, prompt_tokens=400)
  config.sampling.update(steps=2, guidance=2.0)
  return config


def picture(seed: int, size=(16, 16)) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


def random_params(config) -> dict:
  """Of all groups, without zeros."""
  rng = np.random.default_rng(0)
  return trees.map_named(
      lambda _, leaf: np.float32(rng.normal(0.0 if leaf.ndim > 1 else 1.0, 0.1, leaf.shape)),
      make_system(config).shapes())


def save_run(root: pathlib.Path, tokenizer: str) -> None:
  """``run``, a DuetGen with random weights, and ``mine.jpg``, an image to show it."""
  config = duetgen(tokenizer)
  save_weights(str(root / 'run'), random_params(config), to_json(config))
  Image.fromarray(picture(0, (20, 30))).save(root / 'mine.jpg')


def scripted(config, dialogues: Sequence[Sample]):
  """A system that says to the user's part of each dialogue what the assistant says in it.

  Args:
    config: of ``duetgen``.
    dialogues: whole ones, whose prompts must have no positions of answers in common.

  Returns:
    ``(system, its example maker)``.
  """
  system = make_system(config)
  maker = ExampleMaker.of(config, system.layout)
  script = np.full(1000, maker.tokenizer.end)
  for dialogue in dialogues:
    prompt = maker(dataclasses.replace(dialogue, task='conversation')).prompt
    said = np.flatnonzero(prompt.loss_mask[1:])
    script[prompt.positions[said, 0]] = prompt.tokens[said + 1]
  model = Scripted(system.models['mllm'].config, script=tuple(script.tolist()))
  return dataclasses.replace(
      system, models=FrozenDict({**system.models, 'mllm': model})), maker
