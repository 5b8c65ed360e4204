"""Times a judge asked one by one and many at once, on a server of this machine.

    .venv/bin/python tools/bench_judge.py --calls=64 --concurrency=16 --latency=0.5

The server waits ``--latency`` seconds before each answer, as a model would take; the rest is the
client's own time: an image is read, encoded and sent with every call, and the reply is kept.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from jaxgen.core.image_files import to_png
from jaxgen.evaluation.judge import Call
from jaxgen.evaluation.judge import Judge

ENDPOINT = ROOT / 'tests/evaluation/benchmarks/endpoint.py'


def seconds(url: str, calls: int, concurrency: int, image: str, folder: str, latency: float
            ) -> float:
  """Time of all calls."""
  judge = Judge('judge', f'{folder}/{concurrency}.jsonl', url=url, concurrency=concurrency)
  asked = [Call(str(number), 'score', 'hash', [('user', f'[slow {latency}] {number}')],
                images=[image]) for number in range(calls)]
  began = time.monotonic()
  replies = judge.ask(asked)
  assert all(reply.text for reply in replies), replies
  return time.monotonic() - began


def main() -> None:
  """Prints one line of JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--calls', type=int, default=64)
  parser.add_argument('--concurrency', type=int, default=16)
  parser.add_argument('--latency', type=float, default=0.5)
  parser.add_argument('--side', type=int, default=512, help='of the image, in pixels')
  args = parser.parse_args()
  os.environ['OPENAI_API_KEY'] = 'right'
  with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
      [sys.executable, str(ENDPOINT)], stdout=subprocess.PIPE, text=True) as server:
    try:
      url = f'http://127.0.0.1:{server.stdout.readline().strip()}/v1'
      image = pathlib.Path(folder) / 'image.png'
      noise = np.random.default_rng(0).integers(0, 256, (args.side, args.side, 3), np.uint8)
      image.write_bytes(to_png(noise))
      seconds(url, 1, args.concurrency + 1, str(image), folder, 0.0)  # imports the client
      serial, many = (seconds(url, args.calls, concurrency, str(image), folder, args.latency)
                      for concurrency in (1, args.concurrency))
    finally:
      server.terminate()
  print(json.dumps(dict(calls=args.calls, concurrency=args.concurrency, serial=round(serial, 2),
                        many=round(many, 2), times=round(serial / many, 1))))


if __name__ == '__main__':
  main()
