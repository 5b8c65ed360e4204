"""A model in a process of its own, by JSON lines; its libraries stay out of our process."""

import contextlib
import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jaxgen.core.errors import user_error

MASK2FORMER = f'{shlex.quote(sys.executable)} -m jaxgen.evaluation.benchmarks.mask2former'


def named(command: str) -> str:
  """The command of a flag, which may be ``mask2former``, ours."""
  return MASK2FORMER if command == 'mask2former' else command


def check(command: str, flag: str) -> None:
  """Raises a ``UserError`` that names the flag unless the program of its command is there."""
  try:
    program, *_ = shlex.split(command)
  except ValueError:
    program = ''
  if not shutil.which(program):
    raise user_error(flag, command, 'no such program; give a command, or mask2former')


def answers(command: str, requests: Iterable[Mapping[str, Any]], flag: str
            ) -> Iterator[dict[str, Any]]:
  """What a command says to each request, one after another.

  Args:
    command: that starts the process. It reads lines from its standard input and answers each with
      a line.
    requests: each names an ``image``.
    flag: of the command, for errors.

  Raises:
    UserError: it ends, or says no JSON, before it has answered all requests.
  """
  with subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        text=True) as process:
    for request in requests:
      try:
        process.stdin.write(json.dumps(request) + '\n')
        process.stdin.flush()
        answer = json.loads(process.stdout.readline())
      except (OSError, ValueError):
        with contextlib.suppress(OSError):  # what could not be written any more
          process.stdin.close()
        raise user_error(flag, command, f'gave no answer for {request["image"]}; see what it '
                         'printed') from None
      yield answer
