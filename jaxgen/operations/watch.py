"""Heartbeat threads that detect a hanging step or a lost host, name it, and end the run.

A collective blocks forever if a host has died or hangs. Every process therefore publishes its
progress through the coordinator. A host that is silent for too long is named in every log, and all
processes exit with code 1 so that a launcher can restart the run.
"""

import faulthandler
import json
import os
import statistics
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

import jax

from jaxgen.core.errors import UserError
from jaxgen.sharding.hosts import Hosts

STALL_FACTOR = 10  # times the median step
STALL_LEAST = 5.0  # seconds; shorter steps are never reported
MEDIAN_OF = 101  # steps
MEDIAN_FROM = 3  # steps; the first ones compile
BEFORE_STEPS = 10  # times the timeout: tracing and compiling can block a process's threads


class Watch:
  """Monitors the steps of this process and the heartbeats of the other hosts."""

  def __init__(self, hosts: Hosts, timeout: float):
    """Starts the threads.

    Args:
      hosts: the hosts of the run.
      timeout: seconds of silence after which a host counts as lost.
    """
    self._hosts, self._timeout = hosts, timeout
    self._place, self._started = 'set-up', 0.0
    self._steps: deque[float] = deque(maxlen=MEDIAN_OF)
    self._told = False
    # Seconds on a clock that pauses while this process is stopped or starved of CPU time, so that
    # it does not then mistake the other hosts for silent.
    self._now = 0.0
    self._answer = 0.0  # when the coordinator last answered
    self._heard: dict[int, tuple[str, float]] = {}  # process -> (last heartbeat, time received)
    self._end = threading.Event()
    self._threads = [threading.Thread(target=self._guard, name='watch', daemon=True)]
    if hosts.count > 1:
      self._threads.append(threading.Thread(target=self._talk, name='beat', daemon=True))
    for thread in self._threads:
      thread.start()

  def step(self, number: int) -> None:
    """Records the start of a step, which also ends the timing of the previous one."""
    self.at(f'step {number}')
    self._started = time.monotonic()

  def at(self, place: str) -> None:
    """Records that the main thread does something other than a step, which is not timed.

    Args:
      place: name of the activity in messages.
    """
    if self._started:
      self._steps.append(time.monotonic() - self._started)
    self._place, self._started, self._told = place, 0.0, False

  def __enter__(self) -> 'Watch':
    return self

  def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
    self.failed(kind, error, traceback)
    self._stop('done')

  def failed(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
    """Publishes the exception that ends this process, if there is one; for ``ExitStack.push``.

    A JAX runtime error may be caused by a lost host. In that case this waits until the loss is
    detected, which ends the process, so the call does not return.
    """
    if error is None or self._end.is_set():
      return
    if self._hosts.count > 1 and isinstance(error, jax.errors.JaxRuntimeError):
      _say(f'{self._me()}: {" ".join(str(error).split())[:300]}')
      self._threads[0].join(timeout=self._timeout + 10 * self._pause())
    self._stop(f'error: {error if isinstance(error, UserError) else repr(error)[:300]}')

  def _stop(self, word: str) -> None:
    if self._end.is_set():
      return
    self._place = word
    self._end.set()
    for thread in self._threads:
      if thread is not threading.current_thread():
        # A hanging coordinator must not block this process.
        thread.join(timeout=self._pause() + 1)

  def _me(self) -> str:
    return self._hosts.label(self._hosts.index)

  def _pause(self) -> float:
    return min(self._timeout / 5, 2.0)

  def _guard(self) -> None:
    """Checks local steps and received heartbeats; makes no remote call, so it cannot block."""
    last = time.monotonic()
    while not self._end.wait(self._pause()):
      now = time.monotonic()
      self._now, last = self._now + min(now - last, 2 * self._pause()), now
      self._check_stall()
      verdict = self._verdict() if self._hosts.count > 1 else ''
      if verdict:
        self._give_up(verdict)

  def _check_stall(self) -> None:
    """Dumps the stacks of all threads once when a step takes ten times the median."""
    started = self._started
    if self._told or not started or len(self._steps) < MEDIAN_FROM:
      return
    median, taken = statistics.median(list(self._steps)), time.monotonic() - started
    if taken < max(STALL_FACTOR * median, STALL_LEAST):
      return
    self._told = True
    _say(f'{self._me()}: {self._place} takes {taken:.1f} s so far, its median is {median:.2f} s; '
         f'{self._behind()}the stacks of all threads:')
    faulthandler.dump_traceback(sys.__stderr__, all_threads=True)

  def _behind(self) -> str:
    """The processes known to be at another place than this one, as text."""
    others = {index: json.loads(text)['place'] for index, (text, _) in self._heard.items()
              if index != self._hosts.index}
    return ''.join(f'{self._hosts.label(index)} is at {place}; '
                   for index, place in sorted(others.items()) if place != self._place)

  def _verdict(self) -> str:
    """The reason why the run cannot continue; an empty string while it can."""
    answer = self._answer
    if self._now - answer > self._timeout:
      return (f'{self._hosts.label(0)}, the coordinator, has not answered for '
              f'{self._now - answer:.0f} s')
    for index, (text, when) in sorted(self._heard.items()):
      beat = json.loads(text)
      place, silent = beat['place'], answer - when  # excludes time without a coordinator's answer
      if place.startswith('error: '):
        return f'{self._hosts.label(index)} ended with {place}'
      patience = self._timeout * (1 if beat['runs'] else BEFORE_STEPS)
      if place != 'done' and silent > patience:
        return f'{self._hosts.label(index)} has been silent for {silent:.0f} s; it was at {place}'
    return ''

  def _give_up(self, verdict: str) -> None:
    _say(f'{self._me()} at {self._place}: {verdict}; this process ends, start the run again to '
         'go on from the last checkpoint')
    sys.stdout.flush()
    self._stop(f'error: {verdict}')
    if self._hosts.index == 0:
      # JAX ends all processes when process 0 exits, so let them receive the verdict first.
      time.sleep(3 * self._pause())
    # The main thread may be stuck in a collective, so waiting for clean-up could block forever.
    os._exit(1)

  def _talk(self) -> None:
    """Sends this process's heartbeats and receives those of the others."""
    count, last = 0, False
    while not last:
      last = self._end.wait(self._pause() if count else 0)
      count += 1
      try:
        self._hosts.put(f'beats/{self._hosts.index}', json.dumps(
            {'place': self._place, 'count': count, 'runs': len(self._steps) >= MEDIAN_FROM}))
        self._hear(self._hosts.texts('beats'))
      except jax.errors.JaxRuntimeError:
        continue  # _verdict counts how long the coordinator has not answered

  def _hear(self, texts: Mapping[int, str]) -> None:
    now = self._answer = self._now
    for index, text in texts.items():
      if index != self._hosts.index and self._heard.get(index, ('', 0))[0] != text:
        self._heard[index] = (text, now)


def _say(text: str) -> None:
  print(f'jaxgen: {text}', file=sys.stderr, flush=True)
