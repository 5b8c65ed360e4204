"""Mixed requests to a server, one by one and from many clients at once.

    .venv/bin/python tools/bench_serve.py --workdir=runs/quickstart --requests=200 --clients=16

Starts ``jaxgen serve`` on this machine, or asks the one at ``--url``. Requests have unlike sizes,
given images, outputs, steps and scales, as far as the model takes them. Every answer of the load
must be that of the same request by itself, up to rounding to 8 bits. The line of JSON has seconds
(p50, p99) and images per second of both, and what was lost, differed, or was compiled on the way.
"""

import argparse
import base64
import concurrent.futures
import contextlib
import dataclasses
import io
import json
import pathlib
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import openai
from PIL import Image

WORDS = ('red', 'blue', 'green', 'circle', 'square', 'cross', 'above', 'two', 'and', 'a')


@dataclasses.dataclass(frozen=True)
class Asked:
  """One call.

  Attributes:
    images: bytes of the given ones.
    fields: of the call.
  """

  images: Sequence[bytes]
  fields: dict[str, Any]


@dataclasses.dataclass
class Answers:
  """What came back, in the order of the calls.

  Attributes:
    images: of each call; None where none came.
    seconds: of each call.
    wall: seconds of all.
  """

  images: list[list[np.ndarray] | None]
  seconds: list[float]
  wall: float

  def summary(self) -> dict[str, float]:
    """Seconds of a call and images per second."""
    count = sum(len(images) for images in self.images if images)
    p50, p99 = np.percentile(self.seconds, (50, 99))
    return dict(p50=round(float(p50), 3), p99=round(float(p99), 3), wall=round(self.wall, 2),
                images_per_s=round(count / self.wall, 3))


def mixed(client: openai.OpenAI, count: int, steps: Sequence[int] = (0,)) -> list[Asked]:
  """Calls that a server's model can answer, the same ones each time.

  Args:
    client: of the server.
    count: how many.
    steps: of the solver, to choose from; 0 = the config's.
  """
  model, = client.models.list().data
  draw, asked = random.Random(0), []
  for number in range(count):
    fields: dict[str, Any] = dict(seed=number, size=draw.choice(model.sizes),
                                  prompt=' '.join(draw.choices(WORDS, k=draw.randint(1, 8))))
    chosen = draw.choice(steps)
    fields |= dict(steps=chosen) if chosen else {}
    fields |= draw.choice([{}, {}, dict(n=2), dict(guidance=1.0)])
    given = draw.choice([0, 0, 1, model.images]) if model.images else 0
    if not given and draw.random() < 0.3:
      fields['outputs'] = model.outputs
    asked.append(Asked([_photo(draw) for _ in range(given)], fields))
  return asked


def load(client: openai.OpenAI, asked: Sequence[Asked], clients: int) -> Answers:
  """Sends the calls from so many clients, each of which waits for its answer before the next."""
  seconds = [0.0] * len(asked)

  def one(number: int) -> list[np.ndarray] | None:
    began = time.monotonic()
    try:
      return _call(client, asked[number])
    except openai.OpenAIError as error:
      print(f'call {number}: {error}', file=sys.stderr)
      return None
    finally:
      seconds[number] = time.monotonic() - began

  began = time.monotonic()
  with concurrent.futures.ThreadPoolExecutor(clients) as pool:
    images = list(pool.map(one, range(len(asked))))
  return Answers(images, seconds, time.monotonic() - began)


def apart(one: Answers, other: Answers) -> int:
  """How many calls were answered by other images, by more than one of 255 levels."""
  return sum(not _near(left, right) for left, right in zip(one.images, other.images, strict=True)
             if left and right)


def _near(left: Sequence[np.ndarray], right: Sequence[np.ndarray]) -> bool:
  return len(left) == len(right) and all(
      a.shape == b.shape and np.abs(a.astype(int) - b.astype(int)).max() <= 1
      for a, b in zip(left, right))


def _call(client: openai.OpenAI, asked: Asked) -> list[np.ndarray]:
  fields = dict(asked.fields)
  known = dict(prompt=fields.pop('prompt'), size=fields.pop('size'), n=fields.pop('n', 1))
  if asked.images:
    files = [(f'{index}.png', data) for index, data in enumerate(asked.images)]
    answer = client.images.edit(image=files, extra_body=fields, **known)
  else:
    answer = client.images.generate(extra_body=fields, **known)
  return [np.asarray(Image.open(io.BytesIO(base64.b64decode(image.b64_json))))
          for image in answer.data]


def _photo(draw: random.Random) -> bytes:
  """A PNG of any size and colours."""
  size = (draw.randint(16, 96), draw.randint(16, 96), 3)
  pixels = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, size, np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(pixels).save(buffer, 'PNG')
  return buffer.getvalue()


@contextlib.contextmanager
def _server(flags: Sequence[str]) -> Iterator[str]:
  """The address of ``jaxgen serve`` with these flags, once its programs are compiled."""
  command = [sys.executable, '-m', 'jaxgen.cli', 'serve', '--port=0', *flags]
  with subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                        cwd=pathlib.Path(__file__).parents[1]) as server:
    try:
      line = server.stdout.readline()
      print(line, end='', file=sys.stderr)
      if 'http' not in line:
        sys.exit('the server has not started')
      threading.Thread(target=server.stdout.read, daemon=True).start()
      yield line.split()[-1].removesuffix('/v1')
    finally:
      server.terminate()


def main() -> None:
  """Prints one line of JSON; exits with 1 where an answer was lost or differs."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--url', default='', help='of a server that runs')
  parser.add_argument('--requests', type=int, default=200)
  parser.add_argument('--clients', type=int, default=16)
  args, flags = parser.parse_known_args()
  with contextlib.nullcontext(args.url) if args.url else _server(flags) as url:
    client = openai.OpenAI(base_url=f'{url}/v1', api_key='none', max_retries=8, timeout=3600)
    asked = mixed(client, args.requests)
    alone, together = load(client, asked, 1), load(client, asked, args.clients)
    metrics = urllib.request.urlopen(f'{url}/metrics').read().decode()
  compiled = [line.split()[1] for line in metrics.splitlines()
              if line.startswith('jaxgen_programs_total')]
  first, second = alone.summary(), together.summary()
  lost, different = together.images.count(None), apart(alone, together)
  print(json.dumps(dict(
      requests=args.requests, clients=args.clients, alone=first, together=second,
      times=round(second['images_per_s'] / first['images_per_s'], 2), lost=lost,
      different=different, compiled=float(compiled[0]))))
  sys.exit(bool(lost or different))


if __name__ == '__main__':
  main()
