"""The hosts of a run: barriers that name who is missing, and texts passed between hosts.

All of it goes through the key-value store of JAX's coordinator, never through the devices, so a
host that hangs or died holds nobody up for longer than the time-out.
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
  """The processes of a run as one of them sees them.

  Attributes:
    client: of JAX's coordinator; None for a single process.
    index: number of this process.
    count: how many there are.
    names: machine of each process, as it calls itself.
  """

  client: Any
  index: int
  count: int
  names: tuple[str, ...] = (socket.gethostname(),)

  @classmethod
  def join(cls, index: int, count: int) -> 'Hosts':
    """The hosts of a run whose processes ``jax.distributed`` has just brought together."""
    unnamed = cls(multihost.get_jax_distributed_client(), index, count, ('?',) * count)
    names = unnamed.gather('hosts', socket.gethostname())
    return dataclasses.replace(unnamed, names=tuple(names))

  def label(self, index: int) -> str:
    """A process as messages call it."""
    return f'process {index} ({self.names[index]})'

  def labels(self, indices: list[int]) -> str:
    """Several of them."""
    return ', '.join(map(self.label, indices))

  def gather(self, key: str, text: str, timeout: float = TIMEOUT) -> list[str]:
    """The texts of all processes, in their order; every process must come with the same key.

    Args:
      key: a name that the run uses once.
      text: of this process.
      timeout: seconds to wait for all of them together.

    Raises:
      UserError: some did not come in time; names them.
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
      key: a name that the run uses once.
      timeout: seconds.

    Raises:
      UserError: some did not come in time; names them.
    """
    self.gather(key, '', timeout)

  def put(self, key: str, text: str) -> None:
    """Leaves a text for the others."""
    self.client.key_value_set(f'{_PREFIX}/{key}', text, allow_overwrite=True)

  def texts(self, folder: str) -> dict[int, str]:
    """What the processes have left as ``folder/<number>`` so far."""
    found = self.client.key_value_dir_get(f'{_PREFIX}/{folder}/')
    return {int(key.rpartition('/')[2]): text for key, text in found}
