"""Dialogues read piece by piece: as read at once, when the cache is full, when texts change."""

import copy

import jax
import numpy as np
import pytest

from jaxgen.data import tasks
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.operations.programs import Programs
from jaxgen.sampling import reading
from jaxgen.sampling.generate import placed
from jaxgen.sampling.reading import Reader
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system
from tests.sampling.scripted import duetgen
from tests.sampling.scripted import picture
from tests.sampling.scripted import random_params

KEYS = {0: (0, 0), 1: (0, 1)}


@pytest.fixture(scope='module', params=['duetgen', 'iomm'])
def opened(request, tiny_base):
  """``(make a reader, example of the parts of a dialogue)``.

  Of Qwen2.5-VL, with three axes of positions and images of any size, and of InternVL, with square
  ones and learned queries behind its prompts.
  """
  config = copy.deepcopy(tiny_base)
  if request.param == 'duetgen':
    config = duetgen(config.data.tokenizer)
  config.data.prompt_tokens = 400
  system = make_system(config)
  maker, mesh = ExampleMaker.of(config, system.layout), make_mesh(config.mesh, jax.devices()[:1])
  params = placed(system, random_params(config), config, mesh)

  def example(*parts):
    asked = Sample('x', (*parts, Part('target', loss=True, size=(16, 16))))
    return maker(tasks.worded(asked, 'dialogue', config.data))

  return (lambda: Reader(system, params, maker, config, mesh, 2, temperature=0.0, top_p=1.0,
                         max_tokens=12), example)


def test_reading_on_equals_reading_anew(opened, monkeypatch):
  """One dialogue grows by texts and images, the other one stays behind after its first text."""
  make, example = opened
  begun, real = [], reading.language.read
  monkeypatch.setattr(reading.language, 'read',
                      lambda *given, **options: begun.append(1) or real(*given, **options))
  reader, short = make(), example(Part('user', text='and this?'))
  parts = (Part('source', image=picture(0, (24, 16))), Part('user', text='step by step'))
  reader.read({0: example(*parts), 1: short})
  for step in range(1, 6):
    parts = (*parts, Part('assistant', text=f'step {step} ' * 3),
             Part('target', image=picture(step)))
    reader.read({0: example(*parts)})
  before = len(begun)
  assert 1 < before < 5  # the cache was full now and then, and what was read was appended else
  anew = make()
  anew.read({0: example(*parts), 1: short})
  found, expected = reader.write({0: (0, 0)}), anew.write(KEYS)
  assert found == {0: expected[0]} and expected[0] != expected[1]
  # A text that is cut into other tokens now is not taken for what was read.
  parts = (parts[0], Part('user', text='step, by step'), *parts[2:])
  reader.read({0: example(*parts), 1: short})
  assert len(begun) == before + 2
  anew = make()
  anew.read({0: example(*parts), 1: short})
  assert reader.write(KEYS) == anew.write(KEYS)


def test_a_limit_ends_what_is_written_without_a_program_of_its_own(opened):
  make, example = opened
  reader = make()
  reader.read({0: example(Part('user', text='one')), 1: example(Part('user', text='two'))})
  state, options = reader._state, dict(max_new=12, stop_ids=())

  def write(**more):
    tokens, end, lengths = reading.language.continue_from(
        reader._model, reader._params, state, **options, **more)
    assert int(end.used) - int(state.used) == more.get('limit', 12) == max(lengths.tolist())
    return np.asarray(tokens)

  whole, short = write(), write(limit=3)
  with Programs() as programs:
    longer = write(limit=5)
  assert programs.count == 0
  assert (short[:, :3] == whole[:, :3]).all() and (longer[:, :5] == whole[:, :5]).all()


def test_rows_that_are_not_to_write_do_not(opened):
  make, example = opened
  reader = make()
  reader.read({0: example(Part('user', text='one')), 1: example(Part('user', text='two'))})
  both = reader.write(KEYS)
  assert list(reader.write({1: KEYS[1]}).items()) == [(1, both[1])]
  assert all(draft.stop in ('image', 'end', 'cut') for draft in both.values())
