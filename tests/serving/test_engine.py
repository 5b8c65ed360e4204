"""Jobs of many clients in fixed programs: answers as alone, none compiled on the way, the queue."""

import concurrent.futures
import threading

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.sampling.generate import generate
from jaxgen.sampling.request import make_request
from jaxgen.serving.engine import Engine
from jaxgen.serving.engine import Late
from jaxgen.serving.engine import Refused
from tests.sampling.scripted import picture
from tests.serving import tiny


@pytest.fixture(scope='module')
def run(tiny_tokenizer):
  return tiny.make_run(tiny_tokenizer)


@pytest.fixture(scope='module')
def engine(run):
  engine = tiny.make_engine(run)
  engine.start()
  yield engine
  assert engine.drain(60)


def near(left, right) -> bool:
  """Equal up to rounding to 8 bits at the last step."""
  return all(a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).max() <= 1
             for a, b in zip(left, right, strict=True))


def mixed(run) -> list:
  """Requests of unlike sizes, references, outputs and scales, with their steps."""
  config, wide = run.config, tiny.SIZES[1]
  return [
      (make_request(config, 'a red circle', size=(16, 16), seed=1), 3),
      (make_request(config, 'two blue squares', size=wide, seed=2), 5),
      (make_request(config, 'make it green', source=[picture(1)], size=(16, 16), seed=3), 2),
      (make_request(config, 'both in one', reference=[picture(2), picture(3, (40, 20))], size=wide,
                    seed=4, guidance=1.0), 4),
      (make_request(config, 'a cross', size=(16, 16), outputs=2, seed=5, guidance=3.0), 3),
      (make_request(config, '', size=(16, 16), seed=6, number=3), 1)]


def test_answers_are_those_of_each_request_alone_and_nothing_is_compiled(run, engine):
  jobs = [engine.drawer.prepare(request, steps) for request, steps in mixed(run)]
  assert len({job.kind for job in jobs}) == len(engine.drawer.kinds) == 3
  alone = [engine.submit([job])[0].future.result(60) for job in jobs]
  before, steps = engine.counts.batches, []
  tickets = engine.submit([*jobs[::-1], *jobs], listen=steps.append)
  together = [ticket.future.result(60) for ticket in tickets]
  assert engine.counts.batches - before < len(jobs)  # they share rows
  for first, second, expected in zip(together[::-1], together[6:], [*alone], strict=False):
    assert near(first, second)
  assert all(near(images, expected) for images, expected in zip(together[6:], alone, strict=True))
  assert [len(images) for images in alone] == [1, 1, 1, 1, 2, 1]
  assert [step.step for step in steps if step.job == 7] == [1, 2, 3, 4, 5]
  assert engine.counts.programs == 0


def test_the_server_draws_what_the_command_draws(run, engine):
  requests = [request for request, _ in mixed(run)][1:2]
  drawn, = generate(run.system, run.params, requests, maker=run.maker, config=run.config, steps=5,
                    mesh=engine.drawer._mesh)
  served = engine.submit([engine.drawer.prepare(requests[0], 5)])[0].future.result(60)
  assert near(served, drawn)
