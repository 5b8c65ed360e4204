"""Sixty broken configs, files and commands: each ends in one clear line, and writes nothing."""

import os
import pathlib

import pytest

from jaxgen import cli

ROOT = pathlib.Path(__file__).parents[1]
TINY = f'--config={ROOT}/configs/iomm/tiny.py'
INSPECT, TRAIN = 'data inspect --path=IN', f'train {TINY} --workdir=OUT --config.'
CONFIG = 'from jaxgen.config import base_config\ndef get_config():\n'
# Name of a file below IN -> its bytes; command; what is said.
ROWS = [
    # Data.
    ({}, 'data inspect --path=none', "--path = 'none': no such file or folder"),
    ({}, INSPECT, 'IN'),
    ({'notes.md': b'x'}, INSPECT, 'IN'),
    ({'a.jsonl': b'{"image": "a.jpg"'}, f'{INSPECT}/a.jsonl', 'a.jsonl:1'),
    ({'a.jsonl': b'["a.jpg"]'}, f'{INSPECT}/a.jsonl', 'each line must be one JSON object'),
    ({'a.jsonl': b'{"caption": "a cat"}'}, f'{INSPECT}/a.jsonl', 'a.jsonl'),
    ({'a.jsonl': b'{"id": "x", "parts": []}'}, f'{INSPECT}/a.jsonl', 'parts'),
    ({'a.jsonl': b'{"id": "x", "parts": [{"text": "a", "role": "target"}]}'},
     f'{INSPECT}/a.jsonl', 'use one of system, user, assistant for text'),
    ({'a.jsonl': b'{"id": "x", "parts": [{"image": "a", "role": "user"}]}'},
     f'{INSPECT}/a.jsonl', 'for image'),
    ({'a.jsonl': b'{"id": "x", "parts": [{"image": null, "role": "target", "size": [0, 8]}]}'},
     f'{INSPECT}/a.jsonl', 'must be [height, width] in pixels'),
    ({'a.jsonl': b''}, f'{INSPECT}/a.jsonl', 'a.jsonl'),
    ({'a.json': b'{"a": 1'}, f'{INSPECT}/a.json', 'a.json'),
    ({'a.csv': b'one,two\n1,2\n'}, f'{INSPECT}/a.csv', 'a.csv'),
    ({'a.parquet': b'PAR1 no'}, f'{INSPECT}/a.parquet', 'a.parquet'),
    ({'a.tar': b'no tar at all'}, f'{INSPECT}/a.tar', 'a.tar'),
    ({'a.arrayrecord': b'nothing'}, f'{INSPECT}/a.arrayrecord', 'a.arrayrecord'),
    ({}, 'data inspect --kind=tfds --path=IN', 'no TFDS data set'),
    ({'a.jpg': b'x'}, f'{INSPECT} --fields=target', 'write OURS=THEIRS'),
    ({'a.jpg': b'x'}, f'{INSPECT} --limit=-1', '--limit = -1'),
    ({'a.jpg': b'x'}, f'{INSPECT} --buckets=round', 'round'),
    ({}, 'data inspect --kind=shapes --path=edit', '--limit = 0: shapes have no end'),
    ({'bag_0.png': b'', 'bag_1.png': b''}, 'data inspect --kind=photos --path=IN --size=8',
     'photographs of one subject alone'),
    ({'a.jpg': b'x'}, 'data inspect --kind=photos --path=IN', '--path: size = 0: windows'),
    ({}, 'data inspect --kind=shapes --path=draw --size=32 --limit=2', 'drawn tasks are'),
    ({}, 'data inspect --kind=shapes --path=edit --size=32 --limit=2 --fields=grids=9x9', 'grids'),
    ({'a.jpg': b'x'}, 'data pack --path=IN --out=OUT', 'none of the 1 records can be used'),
    ({'a.jpg': b'x'}, 'data pack --path=IN --out=IN', 'not empty; choose another --out'),
    ({'a.jpg': b'x'}, 'data tokenizer --path=IN --out=OUT', 'no captions in it'),
    ({}, 'data tokenizer --kind=shapes --out=OUT --vocab=9', '--vocab = 9'),
    # Configs.
    ({}, 'train --config=none.py --workdir=OUT', 'none.py'),
    ({}, 'train --config=IN --workdir=OUT', 'IN'),
    ({'c.py': b'def get_config(:'}, 'train --config=IN/c.py --workdir=OUT', 'c.py'),
    ({'c.py': b'steps = 5'}, 'train --config=IN/c.py --workdir=OUT', 'get_config'),
    ({'c.py': b'\xff\xfe'}, 'train --config=IN/c.py --workdir=OUT', 'c.py'),
    ({'c.py': f'{CONFIG}  return 5\n'.encode()}, 'train --config=IN/c.py --workdir=OUT', 'c.py'),
    ({'c.py': f'{CONFIG}  return base_config().data.sizes\n'.encode()},
     'train --config=IN/c.py --workdir=OUT', 'sizes'),
    ({}, f'{TRAIN}train.stpes=5', 'stpes'),
    ({}, f'{TRAIN}train.steps=many', 'config.train.steps'),
    ({}, f'{TRAIN}train.steps=0', 'config.train.steps = 0'),
    ({}, f'{TRAIN}train.accumulate=3', 'config.train.accumulate = 3'),
    ({}, f'{TRAIN}optimizer.warmup_steps=99', 'config.optimizer.warmup_steps = 99'),
    ({}, f'{TRAIN}optimizer.name=sgd', "config.optimizer.name = 'sgd'"),
    ({}, f'{TRAIN}optimizer.b2=1.5', 'config.optimizer.b2 = 1.5'),
    ({}, f'{TRAIN}model.compute_dtype=float8', "config.model.compute_dtype = 'float8'"),
    ({}, f'{TRAIN}model.denoiser.heads=3', 'heads'),
    ({}, f'{TRAIN}model.denoiser.in_channels=7', 'config.model.denoiser.in_channels = 7'),
    ({}, f'{TRAIN}model.mask_ratio=2.0', 'config.model.mask_ratio = 2.0'),
    ({}, f'{TRAIN}data.dropout.all=-0.1', 'config.data.dropout.all = -0.1'),
    ({}, f'{TRAIN}data.sources.pairs.kind=zip', "kind = 'zip'"),
    ({}, f'{TRAIN}data.sources.pairs.task=draw', "task = 'draw'"),
    ({}, f'{TRAIN}data.image_size=17', 'config.data.image_size = 17'),
    ({}, f'{TRAIN}data.sources.pairs.size=(16,17)', 'config.data.sources.pairs.size = (16, 17)'),
    ({}, f'{TRAIN}data.sources.pairs.kind=photos', 'config.data.sources.pairs.path'),
    ({}, f'{TRAIN}data.tokenizer=none', "config.data.tokenizer = 'none'"),
    ({}, f'{TRAIN}objective.flow_matching=0.0', 'config.objective.flow_matching = 0.0'),
    ({}, f'{TRAIN}mesh.fsdp=3', 'mesh.data x mesh.fsdp = 3'),
    ({}, f'{TRAIN}seed=-1', 'config.seed = -1'),
    ({}, f'{TRAIN}system=none', "config.system = 'none'"),
    # Runs.
    ({}, 'sample --workdir=none --prompt=cat --out=OUT', 'none'),
    ({}, 'sample --workdir=none --out=OUT', '--prompt'),
    ({}, 'sample --workdir=IN --prompt=cat --size=8x --out=OUT', '8x'),
    ({'config.json': b'{"model": '}, 'sample --workdir=IN --prompt=cat --out=OUT', 'config.json'),
    ({}, 'evaluate --workdir=none', 'none'),
    ({}, 'evaluate --workdir=none --prompts=0', '--prompts = 0'),
    ({}, 'evaluate --workdir=none --held-out=4', 'none: no config.json there'),
    ({}, 'report --workdir=none', '--workdir'),
    ({'metrics.jsonl': b'{"step": 1, "loss": 2}'}, 'report --workdir=IN', 'IN'),
    # Models.
    ({}, 'convert inspect none', 'none'),
    ({'a.safetensors': b'\x09\x00'}, 'convert inspect IN/a.safetensors', 'a.safetensors'),
    ({'a.safetensors': b'\xff' * 64}, 'convert inspect IN/a.safetensors', 'a.safetensors'),
    ({'config.json': b'[]'}, 'convert inspect IN', 'IN'),
    ({}, 'convert import --path=IN --out=OUT', 'IN'),
    ({}, 'convert export --workdir=none --out=OUT', 'none'),
    ({}, f'plan {TINY} --topology=tpu:v1', "tpu:v1"),
]


@pytest.mark.parametrize('files, command, said', ROWS, ids=[row[1][:60] for row in ROWS])
def test_one_line_and_nothing_written(files, command, said, tmp_path, capsys, monkeypatch):
  (tmp_path / 'in').mkdir()
  for name, data in files.items():
    (tmp_path / 'in' / name).write_bytes(data)
  monkeypatch.chdir(tmp_path)
  words = [word.replace('IN', str(tmp_path / 'in')).replace('OUT', str(tmp_path / 'out'))
           for word in command.split()]
  assert cli.main(words) == 1
  out, err = capsys.readouterr()
  lines = [line for line in err.splitlines() if line.startswith('jaxgen: ')]
  assert len(lines) == 1 and 'Traceback' not in err and out == ''
  assert said.replace('IN', str(tmp_path / 'in')) in lines[0]
  assert sorted(os.listdir(tmp_path / 'in')) == sorted(files)
  assert os.listdir(tmp_path) == ['in']
