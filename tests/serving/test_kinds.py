"""Whatever clients send fits the programs that were measured before: sizes, rows, and what is not.

Nothing here is compiled or drawn.
"""

import dataclasses
import io
import random
from collections.abc import Callable

import jax
import numpy as np
import pytest
from PIL import Image

from configs.imontage import shapes
from jaxgen.core.errors import UserError
from jaxgen.data.examples import ExampleMaker
from jaxgen.sampling.jobs import GIVEN
from jaxgen.sampling.load import Run
from jaxgen.serving.drawer import Drawer
from jaxgen.serving.errors import ApiError
from jaxgen.serving.images_api import Wish
from jaxgen.serving.images_api import jobs_of
from jaxgen.serving.kinds import named_size
from jaxgen.serving.limits import Limits
from jaxgen.serving.seating import Seats
from jaxgen.sharding.mesh import make_mesh
from jaxgen.systems.registry import make_system

LIMITS = Limits(rows=2, outputs=3, images=3)


def drawer_of(tokenizer: str, references: str, sizes=(), **data) -> Drawer:
  """Of an iMontage of tiny images of many shapes, whose parameters are not made."""
  config = shapes.tiny()
  for group in ('text_encoder', 'text_encoder_2'):
    config.data.tower_tokenizers[group] = tokenizer
  config.model.text_encoder_2.positions = 256
  config.data.update(buckets='ratios:64/16', prompt_tokens=256, references=references,
                     reference_pixels=(64**2, 48**2, 32**2), **data)
  system = make_system(config)
  run = Run(config, system, {}, ExampleMaker.of(config, system.layout))
  return Drawer(run, LIMITS, sizes, make_mesh(config.mesh, jax.devices()[:1]))


@pytest.fixture(scope='module')
def drawer(tiny_tokenizer) -> Drawer:
  """Whose references have the sizes of targets."""
  return drawer_of(tiny_tokenizer, 'bucket')


def photo(draw: random.Random) -> bytes:
  """An image file of any shape."""
  size = (draw.choice((20, 150, 400)), draw.choice((30, 150, 700)))
  buffer = io.BytesIO()
  Image.new('RGB', size, (draw.randrange(256), 0, 0)).save(buffer, 'PNG')
  return buffer.getvalue()


def measured(drawer: Drawer, seconds: Callable[[int, int], float]) -> None:
  """As if the programs had taken so long, by kind and rows."""
  times = drawer.seating.seconds
  times.update({key: seconds(*key) for key in times})


@pytest.mark.parametrize('references', ['bucket', 'native', 'area'])
def test_any_images_have_programs(tiny_tokenizer, references):
  drawer, draw = drawer_of(tiny_tokenizer, references), random.Random(1)
  assert (drawer.outputs, drawer.images) == (3, 3) and len(drawer.kinds) == 3
  kinds = set()
  for number in range(30):
    images = [(draw.choice(GIVEN), photo(draw)) for _ in range(draw.randint(0, 3))]
    outputs = draw.randint(1, 3)
    sizes = draw.choices(drawer.sizes, k=outputs) if draw.random() < 0.5 else ()
    first, second = jobs_of(Wish('a cross', images, 2, outputs, sizes, seed=number), drawer)
    assert (first.request.number, second.request.number) == (0, 1)
    kinds.add(first.kind)
    assert drawer.seating.choose([first, second]).rows in ([[0, 1]], [[0], [1]])
  assert kinds == {0, 1, 2}


def test_a_model_may_take_fewer_references_than_images(tiny_tokenizer):
  drawer = drawer_of(tiny_tokenizer, 'bucket', max_references=2)
  assert drawer.images == 3  # one to edit, and two references
  image = photo(random.Random(1))
  for roles in (('source', 'reference', 'reference'), ('reference', 'reference')):
    assert jobs_of(Wish('x', [(role, image) for role in roles], sizes=[(64, 64)]), drawer)


def test_small_requests_share_rows_and_later_ones_wait(tiny_tokenizer):
  drawer, grey = drawer_of(tiny_tokenizer, 'bucket', [(64, 64), (32, 32)]), np.zeros((9, 9, 3))
  small, = jobs_of(Wish('x', sizes=[(32, 32)]), drawer)
  large, = jobs_of(Wish('x', sizes=[(64, 64)]), drawer)
  buffer = io.BytesIO()
  Image.fromarray(grey.astype(np.uint8)).save(buffer, 'PNG')
  edit, = jobs_of(Wish('x', [('source', buffer.getvalue())], sizes=[(64, 64)]), drawer)
  assert small.kind == large.kind == 0 and edit.kind == 1
  assert drawer.seating.rows == [1, 2]
  choose = drawer.seating.choose
  # Two rows, of one large or four small images each; where longer rows take too long, what needs
  # them waits.
  measured(drawer, lambda kind, rows: 10.0**kind)
  assert choose([small] * 3 + [edit, large] + [small] * 5) == Seats(0, [[0, 1, 2, 5], [4]])
  assert choose([large, large, large, edit]) == Seats(0, [[0], [1]])
  # Behind a large one, small ones take its program and fill the room that it leaves.
  seats = choose([edit, small, large, small])
  assert seats.kind == 1 and sorted(sum(seats.rows, [])) == [0, 1, 2, 3]


def test_the_program_that_draws_most_in_a_second_is_taken(tiny_tokenizer):
  drawer = drawer_of(tiny_tokenizer, 'bucket', [(64, 64), (32, 32)])
  large, = jobs_of(Wish('x', sizes=[(64, 64)]), drawer)
  choose = drawer.seating.choose
  measured(drawer, lambda kind, rows: 1.0 + kind)  # a row leaves the device idle
  assert choose([large] * 2) == Seats(0, [[0], [1]])
  measured(drawer, lambda kind, rows: (1.0 + 2 * kind) * rows)  # a row fills it
  assert choose([large] * 2) == Seats(0, [[0]])
  # A row for three outputs of three given images holds six requests that have one and none.
  measured(drawer, lambda kind, rows: rows * (1.0, 2.0, 7.0)[kind])
  assert choose([large] * 7).kind == 0
  measured(drawer, lambda kind, rows: rows * (1.0, 2.0, 5.0)[kind])
  assert choose([large] * 7) == Seats(2, [[0, 1, 2, 3, 4, 5]])


@pytest.mark.parametrize('wish, said', [
    (Wish('x', sizes=[(48, 48)]), 'this server draws'),
    (Wish('x', outputs=8), 'a row of this server holds'),
    (Wish('x', guidance=101.0), 'use 0 to 100')])
def test_what_has_no_program_is_refused(drawer, wish, said):
  with pytest.raises(UserError, match=said):
    jobs_of(dataclasses.replace(wish, sizes=wish.sizes or [(64, 64)]), drawer)


@pytest.mark.parametrize('text', ['', '64', '64x', 'x64', '1x2x3', '-1x64', '1e3x64', '６４x64'])
def test_sizes_that_are_none(text):
  with pytest.raises(UserError, match='WIDTHxHEIGHT'):
    named_size(text, 'size')


def test_messages_of_errors_can_be_sent():
  error = ApiError(400, f'half \ud83d:\n{"x" * 9999}', param='\udc00')
  assert error.response.body and '\n' not in str(error) and len(str(error)) < 1000
