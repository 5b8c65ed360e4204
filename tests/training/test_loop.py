"""A whole small run."""

import json

from jaxgen.training.loop import train


def test_run(tiny_config, tmp_path):
  train(tiny_config, str(tmp_path))
  lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
  assert [line['step'] for line in lines] == list(range(1, 21))
