"""The interleaved loop with a tiny DuetGen: events, what each image and negative sees, resuming."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict

from configs.duetgen import shapes
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.models.encoders.qwen2_5_vl import Qwen2_5VL
from jaxgen.sampling import interleaved
from jaxgen.sampling.interleaved import converse
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.interleaved import Manner
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


@dataclasses.dataclass
class Run:
  """A system with random weights, and what it was asked to draw."""

  config: object
  system: object
  params: dict
  maker: ExampleMaker
  requests: list

  def events(self, dialogues, manner=Manner(max_tokens=64), **changes):
    """All events; what was drawn for them is appended to ``requests``."""
    given = dict(maker=self.maker, config=self.config, manner=manner) | changes
    return list(converse(self.system, self.params, dialogues, **given))


@pytest.fixture(scope='module')
def config(tiny_tokenizer):
  return duetgen(tiny_tokenizer)


@pytest.fixture(scope='module')
def params(config):
  rng = np.random.default_rng(0)
  return trees.map_named(
      lambda _, leaf: np.float32(rng.normal(0.0 if leaf.ndim > 1 else 1.0, 0.1, leaf.shape)),
      make_system(config).shapes())


def picture(seed: int, size=(16, 16)) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)


USER = Part('user', text='a red circle, then a blue square')
LONG = Part('user', text='make it green. ' * 12)
ANSWERS = (('a red circle.', None, 'a blue square.', None, 'done.'), ('a cross.', None, 'end'))
GIVEN = ((USER,), (Part('source', image=picture(1)), LONG))


def dialogue(number: int, **options) -> Dialogue:
  return Dialogue.of(Sample(f'dialogue {number}', GIVEN[number]), number=number, **options)


@pytest.fixture(scope='module')
def run(config, params):
  """What it says to either dialogue is the answer that is due."""
  system = make_system(config)
  maker, script = ExampleMaker.of(config, system.layout), np.zeros(1000, int)
  for parts, answer in zip(GIVEN, ANSWERS, strict=True):
    whole = Sample('whole', (*parts, *(
        Part('target', image=picture(0), loss=True) if text is None else
        Part('assistant', text=text, loss=True) for text in answer)), task='conversation')
    prompt = maker(whole).prompt
    said = np.flatnonzero(prompt.loss_mask[1:])
    script[prompt.positions[said, 0]] = prompt.tokens[said + 1]
  model = Scripted(system.models['mllm'].config, script=tuple(script.tolist()))
  return Run(config, dataclasses.replace(
      system, models=FrozenDict({**system.models, 'mllm': model})), params, maker, [])


@pytest.fixture
def drawn(run, monkeypatch):
  """The requests of a test, in the batches in which they were drawn."""
  asked, real = [], interleaved.generate

  def generate(system, params, requests, **options):
    asked.append(requests)
    return real(system, params, requests, **options)

  monkeypatch.setattr(interleaved, 'generate', generate)
  return asked


def told(events, index: int) -> list:
  """Texts and images of one dialogue, and why it ended."""
  return [event.dialogue.ended if event.part is None else
          event.part.image if event.part.is_image else event.part.text
          for event in events if event.index == index]


def kinds(parts) -> list:
  return [part if isinstance(part, str) else None for part in parts]


def test_texts_and_images_come_in_turn(run, drawn):
  """What each image sees, what its negative lacks, and with what the text goes on."""
  events = run.events([dialogue(0)])
  answer = told(events, 0)
  assert kinds(answer) == [*ANSWERS[0], 'end']
  (first,), (second,) = drawn
  assert [part.text or part.role for part in first.sample.parts] == [
      USER.text, 'a red circle.', 'target']
  assert [part.text or part.role for part in second.sample.parts] == [
      USER.text, 'a red circle.', 'target', 'a blue square.', 'target']
  clean, target = run.maker(second.sample).images
  np.testing.assert_array_equal(clean.pixels, answer[1])
  assert target.is_target and not clean.is_target and target.pixels is None
  assert clean.positions[:, 0].max() == 0 and target.positions[:, 0].min() == 1
  (weight, _), (less, negative) = run.system.branches(second.sample, second.scales)
  assert (weight, less) == (2.0, -1.0)
  assert [part.text or part.role for part in negative.parts] == [
      USER.text, 'a red circle.', 'target', 'target']
  assert negative.parts[2].image is second.sample.parts[2].image
