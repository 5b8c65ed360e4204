"""The hosts of a run: barriers that name the missing hosts, and messages between hosts.

Everything goes through the key-value store of JAX's coordinator, never through the devices, so a
host that hangs or has died blocks the others no longer than the timeout.
"""

import dataclasses
import socket
import time
from typing import Any

import jax
from orbax.checkpoint import multihost

from jaxgen.core.errors import user_error

TIMEOUT = 600.0  # seconds that hosts wait for each other while they set up and compile
_PREFIX = 'jaxgen'


@dataclasses.dataclass(frozen=True)
class Hosts:
  """The processes of a run, from the point of view of one of them.

  Attributes:
    client: client of JAX's coordinator; None for a single process.
    index: index of this process.
    count: number of processes.
    names: host name of each process.
  """

  client: Any
  index: int
  count: int
  names: tuple[str, ...] = (socket.gethostname(),)

  @classmethod
  def join(cls, index: int, count: int) -> 'Hosts':
    """The hosts of a run whose processes ``jax.distributed`` has just connected."""
    unnamed = cls(multihost.get_jax_distributed_client(), index, count, ('?',) * count)
    names = unnamed.gather('hosts', socket.gethostname())
    return dataclasses.replace(unnamed, names=tuple(names))

  def label(self, index: int) -> str:
    """Name of a process in messages."""
    return f'process {index} ({self.names[index]})'

  def labels(self, indices: list[int]) -> str:
    """Names of several processes in messages."""
    return ', '.join(map(self.label, indices))

  def gather(self, key: str, text: str, timeout: float = TIMEOUT) -> list[str]:
    """Gathers one text from every process, in process order; all must pass the same key.

    Args:
      key: a name that is used once per run.
      text: the text of this process.
      timeout: seconds to wait, for all processes together.

    Raises:
      UserError: some processes did not arrive in time; names them.
    """
    if self.client is None:
      return [text]
    self.put(f'{key}/{self.index}', text)
    end = time.monotonic() + timeout
    texts, missing = [], []
    for index in range(self.count):
      left = max(end - time.monotonic(), 0.05)
      try:
        texts.append(self.client.blocking_key_value_get(
            f'{_PREFIX}/{key}/{index}', int(left * 1000)))
      except jax.errors.JaxRuntimeError as error:
        if 'DEADLINE_EXCEEDED' not in str(error):
          raise user_error(self.label(0), None, 'the coordinator does not answer any more; see '
                           'its log') from error
        missing.append(index)
    if missing:
      raise user_error(f'barrier {key}', None, f'{self.labels(missing)} did not come within '
                       f'{timeout:.0f} s; see the log there, and start all processes together')
    return texts

  def barrier(self, key: str, timeout: float = TIMEOUT) -> None:
    """Waits for all processes.

    Args:
      key: a name that is used once per run.
      timeout: seconds to wait.

    Raises:
      UserError: some processes did not arrive in time; names them.
    """
    self.gather(key, '', timeout)

  def put(self, key: str, text: str) -> None:
    """Publishes a text for the other processes."""
    self.client.key_value_set(f'{_PREFIX}/{key}', text, allow_overwrite=True)

  def texts(self, folder: str) -> dict[int, str]:
    """The texts published as ``folder/<process>`` so far, by process index."""
    found = self.client.key_value_dir_get(f'{_PREFIX}/{folder}/')
    return {int(key.rpartition('/')[2]): text for key, text in found}
