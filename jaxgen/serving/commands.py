"""The command ``jaxgen serve``: a run behind OpenAI's API until it is told to stop."""

import copy
import dataclasses
import ipaddress
import json
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence

import jax
from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.texts import decoded
from jaxgen.core.texts import lines_of
from jaxgen.sampling.load import Origin
from jaxgen.sampling.load import Run
from jaxgen.serving.drawer import Drawer
from jaxgen.serving.engine import Engine
from jaxgen.serving.kinds import named_size
from jaxgen.serving.limits import Limits

MIN_KEY = 16  # characters of a key


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a server listens, and for whom.

  Attributes:
    host, port: 0 = any port that is free.
    name: of the model, for clients.
    keys: file with a key in each line; '' = anybody may ask.
    page: whether there is a page at ``/``.
    flags: of ``jaxgen sample`` that name the same run, which the page shows.
  """

  host: str
  port: int
  name: str
  keys: str = ''
  page: bool = True
  flags: Sequence[str] = ()


def serve(open_origin: Callable[[], Origin], place: Place, limits: Limits, *,
          sizes: Sequence[str] = (), **sampling: float | None) -> None:
  """Serves until SIGTERM or Ctrl-C; what is under way is finished first.

  Args:
    open_origin: finds what is served.
    place: where.
    limits: of clients.
    sizes: WIDTHxHEIGHT of outputs; () = those of the run.
    **sampling: ``guidance``, ``image_guidance`` and ``steps`` of requests that do not say; None
      takes the config's.

  Raises:
    UserError: the extra ``serve`` is missing, a port that is taken, a file without keys, several
      processes, a size that the models cannot draw, or a sharding rule that the devices cannot
      follow; or what ``open_origin`` raises.
  """
  try:
    from jaxgen.serving.app import Listener
    from jaxgen.serving.app import make_app
    from jaxgen.serving.asked import Server
  except ModuleNotFoundError as error:
    raise user_error('jaxgen serve', None, f'needs the package {error.name}; pip install '
                     '"jaxgen[serve]"') from None
  keys = read_keys(place.keys) if place.keys else []
  chosen = [named_size(size, '--output-size') for size in sizes]
  with bound(place.host, place.port) as listening:
    if (count := jax.process_count()) > 1:
      raise user_error('jaxgen serve', f'{count} processes', 'a server is one process with the '
                       'devices of one host; start a server of its own on each host')
    log_to(sys.stderr)
    began = time.monotonic()
    run = _with_sampling(open_origin().load(), sampling)
    engine = Engine(Drawer(run, limits, chosen), limits)
    del run  # its parameters are on the devices soon, and need not stay here as well
    engine.start()
    page = Server(place.flags, guarded=bool(keys)) if place.page else None
    server = Listener(make_app(engine, place.name, keys, page), limits)
    _greet(place, listening.getsockname()[1], time.monotonic() - began, engine.drawer.mesh.size,
           bool(keys))
    # The server hears the signal first, and would then end this process by it.
    before = signal.signal(signal.SIGTERM, lambda number, frame: None)
    try:
      server.run(sockets=[listening])
    finally:
      signal.signal(signal.SIGTERM, before)
      engine.drain(limits.drain)
  print('stopped', flush=True)


def read_keys(path: str) -> list[str]:
  """The keys of a file, one in each line.

  Raises:
    UserError: no such file, no key in it, or one that is short enough to be guessed.
  """
  try:
    text = decoded(epath.Path(path).read_bytes(), f'--api-key-file = {path!r}')
  except OSError:
    raise user_error('--api-key-file', path, 'no such file') from None
  keys = [line.strip() for line in lines_of(text) if line.strip()]
  if not keys:
    raise user_error('--api-key-file', path, 'holds no key; write one in each line')
  if min(map(len, keys)) < MIN_KEY:
    raise user_error('--api-key-file', path, f'a key has fewer than {MIN_KEY} characters; make one '
                     'by: openssl rand -hex 32')
  return keys


def bound(host: str, port: int) -> socket.socket:
  """A socket at the address, which takes no calls yet; raises a ``UserError`` where it cannot be.
  """
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  found = socket.socket(family, socket.SOCK_STREAM)
  found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  try:
    found.bind((host, port))
  except OSError as error:
    found.close()
    raise user_error('--port', port, f'cannot listen at {host}: {error.strerror or error}; choose '
                     'another --port or --host') from None
  return found


def log_to(stream) -> None:
  """Sends the logs of the server to a stream as lines of JSON."""
  handler = logging.StreamHandler(stream)
  handler.setFormatter(_Lines())
  for name in ('jaxgen.serving', 'uvicorn.error'):
    logger = logging.getLogger(name)
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


class _Lines(logging.Formatter):
  """A record as a line of JSON; those of calls are objects already."""

  def format(self, record: logging.LogRecord) -> str:
    message = record.getMessage()
    line = dict(time=round(record.created, 3), level=record.levelname.lower())
    line |= json.loads(message) if record.name == 'jaxgen.serving.access' else dict(
        message=message)
    if record.exc_info:
      line['traceback'] = self.formatException(record.exc_info)
    return json.dumps(line, ensure_ascii=False)


def _greet(place: Place, port: int, seconds: float, devices: int, guarded: bool) -> None:
  """Says where the server is, and who may ask it."""
  host = f'[{place.host}]' if ':' in place.host else place.host
  print(f'{place.name}: ready after {seconds:.0f} s on {devices} device{"s" * (devices > 1)} at '
        f'http://{host}:{port}/v1', flush=True)
  if not guarded and not _is_loopback(place.host):
    print(f'jaxgen: --host = {place.host!r}: anybody who reaches this address may draw; give an '
          '--api-key-file', file=sys.stderr)


def _with_sampling(run: Run, changes: Mapping[str, float | None]) -> Run:
  """The run with other defaults of ``config.sampling``; None leaves one."""
  config = copy.deepcopy(run.config)
  config.sampling.update({name: value for name, value in changes.items() if value is not None})
  return dataclasses.replace(run, config=config)


def _is_loopback(host: str) -> bool:
  try:
    return ipaddress.ip_address(host).is_loopback
  except ValueError:
    return host == 'localhost'
