"""One thread that owns the devices, and a bounded queue of jobs of many clients.

The first job in the queue is drawn next, and those behind it that find room in its rows go with it.
An image depends on its request alone, so the answer to a request is the same whatever is drawn
beside it.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxgen.operations.programs import Programs
from jaxgen.serving.drawer import Drawer
from jaxgen.serving.drawing import Job
from jaxgen.serving.limits import Limits
from jaxgen.serving.seating import Seats

_log = logging.getLogger('jaxgen.serving')

Outputs = list[np.ndarray]  # uint8[H, W, 3] each


class Refused(Exception):
  """The engine takes no job now; the message says why.

  Attributes:
    retry_after: seconds after which it may; 0 where the server goes away.
  """

  def __init__(self, message: str, retry_after: int = 0):
    super().__init__(message)
    self.retry_after = retry_after


class Late(Exception):
  """A job was not done by its deadline."""


@dataclasses.dataclass(frozen=True)
class Progress:
  """A step of a job is done.

  Attributes:
    job: its number among those that were handed over together.
    step, steps: steps done, and in all.
  """

  job: int
  step: int
  steps: int


class Ticket:
  """A job on its way.

  Args:
    job: to be drawn.
    number: among those that were handed over together.
    deadline: by ``time.monotonic``.
    listen: is told of every step, on the engine's thread.

  Attributes:
    future: gets the outputs, or a ``Late`` or ``UserError``; cancelling it takes the job away, at
      any time.
  """

  def __init__(self, job: Job, number: int, deadline: float,
               listen: Callable[[Progress], None] | None):
    self.job, self.number, self.deadline = job, number, deadline
    self.future: concurrent.futures.Future[Outputs] = concurrent.futures.Future()
    self._listen = listen

  @property
  def wanted(self) -> bool:
    """Whether anybody still waits for it; one that is late is told so here."""
    if self.future.done():
      return False
    if time.monotonic() > self.deadline:
      self.settle(Late('the deadline has passed'))
      return False
    return True

  def tell(self, step: int, steps: int) -> None:
    """Tells the client, who may be gone, of a step."""
    if self._listen:
      with contextlib.suppress(RuntimeError):  # its event loop is closed
        self._listen(Progress(self.number, step, steps))

  def settle(self, result: Outputs | Exception) -> None:
    """Answers, unless the client has left."""
    with contextlib.suppress(concurrent.futures.InvalidStateError):
      if isinstance(result, Exception):
        self.future.set_exception(result)
      else:
        self.future.set_result(result)


class Errand:
  """A function that uses the devices.

  Args:
    function: to be called.

  Attributes:
    future: gets what it returns or raises.
  """

  def __init__(self, function: Callable[[], Any]):
    self._function = function
    self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()

  def go(self) -> None:
    """Calls the function."""
    try:
      self.future.set_result(self._function())
    except Exception as error:  # of whoever sent it
      self.settle(error)

  def settle(self, error: Exception) -> None:
    """Answers in place of the function, unless it has been called."""
    with contextlib.suppress(concurrent.futures.InvalidStateError):
      self.future.set_exception(error)


@dataclasses.dataclass
class Counts:
  """What the engine has done since it was ready.

  Attributes:
    batches: begun.
    jobs, images: drawn.
    left, late, failed: jobs whose client left, that were not done in time, or that went wrong.
    seconds: spent on batches.
    programs: compiled on the way, which should be none.
  """

  batches: int = 0
  jobs: int = 0
  images: int = 0
  left: int = 0
  late: int = 0
  failed: int = 0
  seconds: float = 0.0
  programs: int = 0


class Engine:
  """Draws jobs on one thread.

  Args:
    drawer: with the programs.
    limits: of the server.

  Attributes:
    counts: what was done so far.
  """

  def __init__(self, drawer: Drawer, limits: Limits):
    self.drawer, self.limits, self.counts = drawer, limits, Counts()
    self._waiting: collections.deque[Ticket] = collections.deque()
    self._under_way: list[Ticket] = []
    self._errands: collections.deque[Errand] = collections.deque()
    self._dialogues = 0
    self._change = threading.Condition()
    self._closed, self._ended, self._failure = '', False, None
    self._ready = threading.Event()
    self._thread = threading.Thread(target=self._run, name='engine', daemon=True)

  @property
  def queued(self) -> int:
    """Jobs that wait."""
    return len(self._waiting)

  @property
  def under_way(self) -> int:
    """Jobs that are being drawn."""
    return len(self._under_way)

  @property
  def healthy(self) -> bool:
    """Whether jobs are taken and drawn."""
    return self._ready.is_set() and not self._closed and self._thread.is_alive()

  def start(self) -> None:
    """Compiles all programs and waits for it; raises what goes wrong."""
    self._thread.start()
    self._ready.wait()
    if self._failure:
      raise self._failure

  def submit(self, jobs: Sequence[Job], *, seconds: float = 0.0,
             listen: Callable[[Progress], None] | None = None, taken: bool = False
             ) -> list[Ticket]:
    """Takes jobs into the queue, all or none.

    Args:
      jobs: of one call.
      seconds: until the deadline; 0 takes the limit.
      listen: is told of every step, on the engine's thread.
      taken: whether they are part of what was taken before, a dialogue, and cannot be refused.

    Raises:
      Refused: the queue is full, or the server is being stopped.
    """
    deadline = time.monotonic() + min(seconds or self.limits.seconds, self.limits.seconds)
    tickets = [Ticket(job, number, deadline, listen) for number, job in enumerate(jobs)]
    with self._change:
      if self._ended:
        raise Refused(self._closed)
      if not taken:
        self._check_room(len(tickets))
      self._waiting.extend(tickets)
      self._change.notify()
    return tickets

  @contextlib.contextmanager
  def dialogue(self) -> Iterator[None]:
    """The time that a dialogue takes; a server that is stopped waits for its end.

    Raises:
      Refused: as many are under way as may be, or the server is being stopped.
    """
    with self._change:
      if self._closed:
        raise Refused(self._closed)
      if self._dialogues >= self.limits.dialogues:
        raise Refused(f'{self._dialogues} dialogues are under way, and no more may; come again '
                      'later', 10)
      self._dialogues += 1
    try:
      yield
    finally:
      with self._change:
        self._dialogues -= 1
        self._change.notify()

  def run(self, function: Callable[[], Any]) -> Any:
    """Runs a function on the engine's thread, between batches; for other threads.

    Raises:
      Refused: the engine has ended; or what the function raises.
    """
    errand = Errand(function)
    with self._change:
      if self._ended or not self._thread.is_alive():
        raise Refused(self._closed or 'the server is being stopped')
      self._errands.append(errand)
      self._change.notify()
    return errand.future.result()

  def drain(self, seconds: float) -> bool:
    """Takes no further jobs and finishes those that it has; False where time was too short."""
    with self._change:
      self._closed = self._closed or 'the server is being stopped'
      self._change.notify()
    self._thread.join(seconds)
    left = self._refuse_all()
    self._thread.join(seconds and 5.0)
    return not left

  def _refuse_all(self) -> int:
    """Answers all that waits or is under way, and takes nothing more; how many there were."""
    with self._change:
      self._ended = True
      left = [*self._waiting, *self._under_way, *self._errands]
      self._waiting.clear()
      self._errands.clear()
    for each in left:
      each.settle(Refused(self._closed))
    return len(left)

  def _check_room(self, count: int) -> None:
    """Raises ``Refused`` where the queue has no room for so many."""
    if self._closed:
      raise Refused(self._closed)
    if len(self._waiting) + count > self.limits.queue:
      self._drop_unwanted()
    if len(self._waiting) + count > self.limits.queue:
      raise Refused(f'{len(self._waiting)} requests wait, and no more than {self.limits.queue} '
                    'may; come again later', self._wait())

  def _wait(self) -> int:
    """Seconds until the queue has room, by the time that jobs have taken so far."""
    each = self.counts.seconds / max(self.counts.jobs, 1)
    return max(1, min(round(each * len(self._waiting) / 2), 60))

  def _drop_unwanted(self) -> None:
    """Takes jobs that nobody waits for out of the queue."""
    self._waiting = collections.deque(
        ticket for ticket in self._waiting if ticket.wanted or self._count_lost(ticket))

  def _count_lost(self, ticket: Ticket) -> None:
    late = not ticket.future.cancelled() and isinstance(ticket.future.exception(), Late)
    if late:
      self.counts.late += 1
    else:
      self.counts.left += 1

  def _run(self) -> None:
    """The life of the thread."""
    try:
      for line in self.drawer.warm_up():
        _log.info('compiling: %s', line)
    except BaseException as error:
      self._failure = error
      self._ready.set()
      return
    try:
      with Programs() as programs, self.drawer.scope():
        self._ready.set()
        while (errands := self._next()) is not None:
          for errand in errands:
            errand.go()
          self._batch()
          self.counts.programs = programs.count
    except BaseException:  # a defect between batches: nobody may wait for a thread that has ended
      _log.exception('the engine has ended')
      with self._change:
        self._closed = 'the server has failed, its log has the traceback; restart it'
      self._refuse_all()

  def _next(self) -> list[Errand] | None:
    """Waits for something to do; the errands that are due, None where nothing will come any more.
    """
    with self._change:
      while True:
        self._drop_unwanted()
        if self._waiting or self._errands:
          errands = list(self._errands)
          self._errands.clear()
          return errands
        if self._closed and not self._dialogues:
          return None
        self._change.wait()

  def _batch(self) -> None:
    """Draws the first job of the queue, if there is one, and what goes with it."""
    with self._change:
      waiting = list(self._waiting)
      if not waiting:
        return
      seats = self.drawer.seating.choose([ticket.job for ticket in waiting])
      chosen = {number for members in seats.rows for number in members}
      self._waiting = collections.deque(
          ticket for number, ticket in enumerate(waiting) if number not in chosen)
      self._under_way = [waiting[number] for number in sorted(chosen)]
    self.counts.batches += 1  # before any of its answers, as the other counts
    began = time.monotonic()
    try:
      self._draw(waiting, seats)
    except Exception as error:  # a defect, or the device: those that wait are drawn all the same
      _log.exception('a batch failed')
      for ticket in self._under_way:
        self.counts.failed += not ticket.future.done()
        ticket.settle(error)
    self.counts.seconds += time.monotonic() - began
    self._under_way = []

  def _draw(self, tickets: Sequence[Ticket], seats: Seats) -> None:
    """Takes the jobs that have seats through all of their steps; each is answered when it is done.
    """
    drawing = self.drawer.start([ticket.job for ticket in tickets], seats)
    going = {number: tickets[number] for members in seats.rows for number in members}
    while going:
      done = drawing.advance()
      for number, ticket in list(going.items()):
        if not ticket.wanted:
          self._count_lost(going.pop(number))
          continue
        ticket.tell(drawing.step, drawing.steps[number])
      for number, result in drawing.images([number for number in done if number in going]).items():
        failed = isinstance(result, Exception)
        self.counts.failed += failed
        self.counts.jobs += not failed
        self.counts.images += 0 if failed else len(result)
        going.pop(number).settle(result)
