"""Times GenEval's prompts drawn in batches against one image at a time.

    .venv/bin/python tools/bench_draw.py --data=GENEVAL/prompts

draws four images of each prompt with the model of configs/iomm/shapes.py, or the run in
``--workdir``, on all devices; ``--alone`` images of them are drawn one by one. Programs are
compiled before, by the same requests, so that both times are of drawing and of making batches.
"""

import argparse
import json
import pathlib
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import jax

from configs.iomm import shapes
from jaxgen.data.commands import tokenizer_texts
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.shapes import geneval
from jaxgen.data.tokenizer import train_tokenizer
from jaxgen.evaluation.benchmarks import draw
from jaxgen.evaluation.benchmarks.files import Data
from jaxgen.evaluation.benchmarks.registry import benchmark
from jaxgen.sampling.load import load_run
from jaxgen.sampling.load import Run
from jaxgen.sampling.request import Request
from jaxgen.systems.registry import make_system
from timing import machine

PROMPTS = ROOT / 'tests/evaluation/benchmarks/prompts/geneval'


def random_run(folder: str) -> Run:
  """The small model with random weights, whose prompts may be as long as GenEval's."""
  config = shapes.generation(image_share=0.0)
  config.data.tokenizer = f'{folder}/tokenizer'
  config.data.prompt_tokens = 96
  train_tokenizer(tokenizer_texts(geneval.captions()), shapes.VOCAB, config.data.tokenizer)
  system = make_system(config)
  return Run(config, system, jax.jit(system.init)(jax.random.key(0)),
             ExampleMaker.of(config, system.layout))


def seconds(run: Run, requests: list[Request], each: int) -> float:
  """Time of drawing them, ``each`` in a call; the first call was made before."""
  run.draw(requests[:each])
  began = time.perf_counter()
  for start in range(0, len(requests), each):
    run.draw(requests[start:start + each])
  return time.perf_counter() - began


def main() -> None:
  """Prints one line of JSON."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--data', default=str(PROMPTS), help='folder of evaluation_metadata.jsonl')
  parser.add_argument('--workdir', default='', help='a trained run in place of random weights')
  parser.add_argument('--limit', type=int, default=0, help='prompts of each tag; 0 is all')
  parser.add_argument('--alone', type=int, default=32, help='images that are drawn one by one')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as folder:
    run = load_run(args.workdir) if args.workdir else random_run(folder)
    items = benchmark('geneval').read(Data(args.data, 'geneval', 'GenEval', folder))
    requests = [request for number, item in draw.numbered(items, args.limit)
                for request in draw.requests_of(run.config, item, number, draw.Settings())]
    alone = requests[:args.alone]
    together = seconds(run, requests, draw.BATCHES * run.config.sampling.rows)
    one_by_one = seconds(run, alone, 1)
  rates = len(requests) / together, len(alone) / one_by_one
  print(json.dumps(dict(
      images=len(requests), rows=run.config.sampling.rows, batches=round(together, 2),
      images_per_second=round(rates[0], 2), one_by_one=round(rates[1], 2),
      times=round(rates[0] / rates[1], 1), machine=machine())))


if __name__ == '__main__':
  main()
