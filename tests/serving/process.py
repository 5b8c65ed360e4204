"""``jaxgen serve`` as a process of its own, on any number of CPU devices."""

import json
import os
import pathlib
import subprocess
import sys
import threading

ROOT = pathlib.Path(__file__).parents[2]


class Server:
  """A process of the command.

  Args:
    *flags: of the command.
    devices: how many it has.

  Attributes:
    process: of the command.
    greeting: the line that it prints when it is ready.
    url: ``http://HOST:PORT/v1``.
    lines: of its log.
  """

  def __init__(self, *flags: str, devices: int = 1):
    self.process = subprocess.Popen(
        [sys.executable, '-m', 'jaxgen.cli', 'serve', '--port=0', *flags], cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | dict(XLA_FLAGS=(
            f'--xla_force_host_platform_device_count={devices} '
            '--xla_backend_optimization_level=0')))
    self.lines: list[str] = []
    self._reading = threading.Thread(target=lambda: self.lines.extend(self.process.stderr))
    self._reading.start()
    self.greeting = self.process.stdout.readline()
    self.url = self.greeting.split()[-1]

  def end(self, number: int) -> int:
    """Sends a signal and waits; the exit code."""
    self.process.send_signal(number)
    return self.process.wait(60)

  def calls(self) -> list[dict]:
    """Calls of the log, once the process has ended."""
    self._reading.join()
    return [line for line in map(json.loads, self.lines) if 'route' in line]
