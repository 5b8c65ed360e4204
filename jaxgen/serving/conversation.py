"""A dialogue that a server answers: on a thread of its own, with the engine's hands.

Its texts are written between batches, and its images are drawn in them, beside those of others.
"""

import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from jaxgen.core.errors import user_error
from jaxgen.data.sample import Sample
from jaxgen.sampling.generate import Images
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.interleaved import Event
from jaxgen.sampling.interleaved import Hands
from jaxgen.sampling.interleaved import Options
from jaxgen.sampling.interleaved import check
from jaxgen.sampling.interleaved import converse
from jaxgen.sampling.request import Request
from jaxgen.serving.engine import Engine
from jaxgen.serving.engine import Late
from jaxgen.serving.engine import Progress
from jaxgen.serving.engine import Ticket


class Conversation:
  """An answer to a dialogue.

  Args:
    engine: that does the work.
    sample: the dialogue; its images are as ``Drawer.given`` returns them.
    options: of the answer.
    seed: of its texts and images.
    size: (height, width) of its images; None = one that fits the last given image.
    seconds: until the deadline; 0 takes the limit.
    listen: is told of every step of its images, on the engine's thread.

  Raises:
    UserError: a model that writes no text, a dialogue that cannot be answered, or more than the
      server allows.
  """

  def __init__(self, engine: Engine, sample: Sample, options: Options, *, seed: int = 0,
               size: tuple[int, int] | None = None, seconds: float = 0.0,
               listen: Callable[[Progress], None] | None = None):
    self._engine, self._listen = engine, listen
    drawer, limits = engine.drawer, engine.limits
    run = drawer.run
    # In the end the model reads all images, given and drawn.
    self._options = _allowed(options, drawer.images - len(sample.images), limits.tokens)
    shown = [part.image for part in sample.images]
    self._dialogue = Dialogue.of(sample, seed=seed, size=size or drawer.size_for(shown[-1:], shown))
    check(run.system, [self._dialogue], run.maker, run.config, self._options)
    self._deadline = time.monotonic() + min(seconds or limits.seconds, limits.seconds)
    self._stopped, self._ticket = threading.Event(), None

  def events(self) -> Iterator[Event]:
    """The parts of the answer as they come, and its end.

    Raises:
      Refused: too many dialogues are under way, or the server is being stopped.
      Late: it was not done by its deadline.
      CancelledError: it was stopped.
    """
    run, drawer = self._engine.drawer.run, self._engine.drawer
    with self._engine.dialogue():
      yield from converse(
          run.system, run.params, [self._dialogue], maker=run.maker, config=run.config,
          options=self._options, mesh=drawer.mesh, hands=Hands(drawer.reads, self._run, self._draw))

  def stop(self) -> None:
    """Ends the answer, from any thread."""
    self._stopped.set()
    ticket: Ticket | None = self._ticket
    if ticket:
      ticket.future.cancel()

  def _run(self, function: Callable[[], object]) -> object:
    def wanted() -> object:
      self._left()  # it may have waited for a batch and for other dialogues
      return function()

    return self._engine.run(wanted)

  def _draw(self, requests: Sequence[Request]) -> list[Images]:
    request, = requests  # of the one dialogue
    job = self._engine.drawer.prepare(request, self._options.steps)
    self._ticket, = self._engine.submit([job], seconds=self._left(), listen=self._listen,
                                        taken=True)
    if self._stopped.is_set():  # before there was a ticket to cancel
      self._ticket.future.cancel()
    return [self._ticket.future.result()]

  def _left(self) -> float:
    """Seconds until the deadline."""
    if self._stopped.is_set():
      raise concurrent.futures.CancelledError()
    left = self._deadline - time.monotonic()
    if left <= 0:
      raise Late('the deadline has passed')
    return left


def _allowed(options: Options, images: int, tokens: int) -> Options:
  """The options within what the programs hold.

  Args:
    options: as they were asked for.
    images: of an answer at the most.
    tokens: of a text at the most.
  """
  if options.images > images:
    raise user_error('images', options.images, f'this server has room for {max(images, 0)} in the '
                     'answer to this dialogue')
  return dataclasses.replace(options, max_images=max(0, min(options.max_images, images)),
                             max_tokens=min(options.max_tokens, tokens))
