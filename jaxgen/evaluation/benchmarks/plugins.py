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

# Our programs, modules beside this one, and the flags whose lines they answer.
PROGRAMS = {'mask2former': ('--detector', '--masks'), 'grounded_sam': ('--masks',)}


def check(command: str, flag: str) -> None:
  """Raises a ``UserError`` that names the flag unless the program of its command is there."""
  ours = [name for name, flags in PROGRAMS.items() if flag in flags]
  fix = f'give {", ".join(ours)} or a command'
  try:
    program, *_ = shlex.split(command)
  except ValueError:
    program = ''
  if program not in PROGRAMS and not shutil.which(program):
    raise user_error(flag, command, f'no such program; {fix}')
  if flag not in PROGRAMS.get(program, (flag,)):
    raise user_error(flag, command, f'{program} is for {", ".join(PROGRAMS[program])} only; {fix}')


def answers(command: str, requests: Iterable[Mapping[str, Any]], flag: str
            ) -> Iterator[dict[str, Any]]:
  """What a command says to each request, one after another.

  Args:
    command: that starts the process, by the name of one of ours or of any program. It reads lines
      from its standard input and answers each with a line.
    requests: each names an ``image``.
    flag: of the command, for errors.

  Raises:
    UserError: it ends, or says no JSON, before it has answered all requests.
  """
  with subprocess.Popen(_words(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
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


def _words(command: str) -> list[str]:
  program, *flags = shlex.split(command)
  if program in PROGRAMS:
    return [sys.executable, '-m', f'jaxgen.evaluation.benchmarks.{program}', *flags]
  return [program, *flags]
