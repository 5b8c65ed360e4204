"""Fetches addresses of a list, politely and from public hosts only; a model of kind ``web``.

Robots rules are asked for and kept to (RFC 9309), a host gets one request at a time with a pause
behind it, sizes and redirects are bounded, and no address of this machine or its network is asked.
"""

import contextlib
import functools
import http.client
import ipaddress
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.robotparser
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from jaxgen.core.errors import user_error
from jaxgen.curation.models import Model
from jaxgen.curation.models import Reply
from jaxgen.curation.models import Request
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Record

MOST = 64 << 20  # bytes of one answer
ROBOTS = 512 << 10  # bytes of robots.txt, as RFC 9309 has it
TIMEOUT, LONGEST = 20.0, 300.0  # seconds: without a byte, and of one answer
PAUSE, LONGEST_PAUSE = 1.0, 60.0  # seconds between two requests to one host, if robots.txt asks too
TRIES, REDIRECTS = 3, 5
_DENIED = urllib.robotparser.RobotFileParser()
_DENIED.disallow_all = True


def fetched(record: Record, *, web: Model, into: str) -> Record | Dropped:
  """Fetches the address of a record.

  Args:
    record: with an address in its lineage; it gets a field of bytes.
    web: by ``Use`` of a model of kind ``web``.
    into: name of the field.
  """
  if not record.lineage.url:
    return record.drop('no address')
  reply, = web.ask([Request(record.lineage.url)])
  if reply.error:
    return record.drop(f'not fetched: {reply.error}', url=record.lineage.url)
  return record.having(**{into: reply.images[0]})


class Refused(Exception):
  """An address that will not be fetched; the message is a reason that is counted."""


class Web:
  """Fetches what requests name in their texts; the bytes are the one image of the reply.

  An address that gives nothing after all tries is kept as such: remove ``calls/`` to ask again.

  Args:
    name: in the recipe.
    agent: what the fetcher calls itself to servers: a name, and how to reach who runs it.
    public: whether an IP address may be asked.
    pause: seconds between two requests to one host, at the least.
  """

  def __init__(self, name: str, agent: str,
               public: Callable[[str], bool] = lambda found: ipaddress.ip_address(found).is_global,
               pause: float = PAUSE):
    if not agent.strip() or not agent.isprintable():
      raise user_error('--fetch', agent, 'say who fetches, as "my-crawler (me@example.org)"')
    del name
    self._agent, self._public = agent, public
    self._pause, self._pauses = pause, {}
    self._lock, self._turns, self._next = threading.Lock(), {}, {}
    self._robots = functools.cache(self._read_robots)

  def ask(self, requests: Sequence[Request]) -> list[Reply]:
    """See ``Model``."""
    return [self._one(request.text) for request in requests]

  def _one(self, url: str) -> Reply:
    try:
      for _ in range(REDIRECTS + 1):
        origin = _origin(url)
        self._public_address(url)
        if not self._robots(origin).can_fetch(self._agent, url):
          raise Refused('robots.txt')
        status, place, data = self._get(url, MOST)
        if status in (301, 302, 303, 307, 308) and place:
          url = urllib.parse.urljoin(url, place)
        elif status == 200:
          return Reply(images=(data,))
        else:
          raise Refused(f'status {status}')
      raise Refused('too many redirects')
    except Refused as refusal:
      return Reply(error=str(refusal))

  def _read_robots(self, origin: str) -> urllib.robotparser.RobotFileParser:
    """The rules of a host: none where it has no file, everything denied where it is out of order.
    """
    url = f'{origin}/robots.txt'
    for _ in range(REDIRECTS + 1):
      try:
        status, place, data = self._get(url, ROBOTS)
      except Refused:
        return _DENIED
      if status in (301, 302, 303, 307, 308) and place:
        url = urllib.parse.urljoin(url, place)
        continue
      if status >= 500:
        return _DENIED
      rules = urllib.robotparser.RobotFileParser()
      rules.parse(data.decode(errors='replace').splitlines() if status == 200 else [])
      asked = min(float(rules.crawl_delay(self._agent) or 0), LONGEST_PAUSE)
      self._pauses[origin] = max(self._pause, asked)
      self._next[origin] = time.monotonic() + self._pauses[origin]
      return rules
    return _DENIED

  def _get(self, url: str, most: int) -> tuple[int, str, bytes]:
    """Status, place of a redirect, and body of one address."""
    for left in reversed(range(TRIES)):
      try:
        with self._turn(_origin(url)):
          return self._once(url, most)
      except (OSError, http.client.HTTPException) as error:
        if not left:
          raise Refused(f'no answer ({type(error).__name__})') from error
    raise AssertionError('a try returns or raises')

  @contextlib.contextmanager
  def _turn(self, origin: str) -> Iterator[None]:
    """One request to a host at a time, after a pause behind the one before."""
    with self._lock:
      turn = self._turns.setdefault(origin, threading.Lock())
    with turn:
      time.sleep(max(self._next.get(origin, 0.0) - time.monotonic(), 0.0))
      try:
        yield
      finally:
        self._next[origin] = time.monotonic() + self._pauses.get(origin, self._pause)

  def _once(self, url: str, most: int) -> tuple[int, str, bytes]:
    parts = urllib.parse.urlsplit(url)
    with contextlib.closing(self._connection(url)) as connection:
      path = urllib.parse.urlunsplit(('', '', parts.path or '/', parts.query, ''))
      connection.request('GET', path, headers={'User-Agent': self._agent,
                                               'Accept-Encoding': 'identity'})
      answer = connection.getresponse()
      return answer.status, answer.headers.get('Location', ''), _body(answer, most)

  def _public_address(self, url: str) -> tuple[str, int]:
    """IP address and port of a host."""
    parts = urllib.parse.urlsplit(url)
    port = parts.port or (443 if parts.scheme == 'https' else 80)
    try:
      found = [entry[4][0] for entry in socket.getaddrinfo(
          parts.hostname, port, type=socket.SOCK_STREAM)]
    except (OSError, UnicodeError) as error:
      raise Refused('no such host') from error
    if not all(map(self._public, found)):
      raise Refused('private address')
    return found[0], port

  def _connection(self, url: str) -> http.client.HTTPConnection:
    """A connection to the address that was looked at: the name is not resolved a second time."""
    parts, (address, port) = urllib.parse.urlsplit(url), self._public_address(url)
    host, secure = parts.hostname or '', parts.scheme == 'https'
    kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = kind(host, port, timeout=TIMEOUT)
    connection.sock = socket.create_connection((address, port), TIMEOUT)
    if secure:
      connection.sock = ssl.create_default_context().wrap_socket(connection.sock,
                                                                 server_hostname=host)
    return connection


def _body(answer: http.client.HTTPResponse, most: int) -> bytes:
  """All of an answer, if it is no larger and takes no longer than it may."""
  blocks, size, end = [], 0, time.monotonic() + LONGEST
  while block := answer.read1(1 << 16):
    blocks.append(block)
    size += len(block)
    if size > most:
      raise Refused('too large')
    if time.monotonic() > end:
      raise Refused('too slow')
  if answer.length:  # less came than was announced
    raise http.client.IncompleteRead(b'')
  return b''.join(blocks)


def _origin(url: str) -> str:
  """Scheme, host and port of an address; refuses other schemes, names and passwords."""
  try:
    parts = urllib.parse.urlsplit(url)
    port = parts.port
  except ValueError as error:
    raise Refused('no address of the web') from error
  if parts.scheme not in ('http', 'https') or not parts.hostname or '@' in parts.netloc:
    raise Refused('no address of the web')
  return f'{parts.scheme}://{parts.hostname}' + (f':{port}' if port else '')
