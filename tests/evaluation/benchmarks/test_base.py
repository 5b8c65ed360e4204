"""A published pipeline draws a benchmark, as ``jaxgen sample --base`` draws its prompts."""

import json
import pathlib

from jaxgen import cli
from tests.systems import tiny_pipelines

PROMPTS = pathlib.Path(__file__).parent / 'prompts'


def test_a_pipeline_draws_what_sample_draws(tmp_path):
  """The first image of the first prompt has the number that a single prompt has."""
  base = tiny_pipelines.save_flux(tmp_path / 'flux')
  how = [f'--base={base}', '--seed=3', '--size=16x16', '--steps=1', '--config.sampling.rows=8',
         '--config.data.prompt_tokens=32']
  out = tmp_path / 'out'
  assert cli.main(['evaluate', '--benchmark=geneval', f'--data={PROMPTS / "geneval"}',
                   f'--out={out}', '--limit=1', *how]) == 0
  assert len(list(out.rglob('*.png'))) == 6 * 4
  record = json.loads((out / 'drawn.json').read_text())
  assert record['base'] == base and record['overrides'] == [
      'sampling.rows=8', 'data.prompt_tokens=32'] and 'workdir' not in record
  prompt = json.loads((out / 'items.json').read_text())['items'][0]['text']
  assert cli.main(['sample', f'--prompt={prompt}', f'--out={tmp_path}/one', *how]) == 0
  assert (out / '00000/samples/0000.png').read_bytes() == (
      tmp_path / 'one/0000.png').read_bytes()


def test_it_is_one_or_the_other(tmp_path, capsys):
  words = ['evaluate', '--benchmark=geneval', f'--out={tmp_path}']
  for more, said in ((['--base=a', '--workdir=b'], "--workdir = 'b': name either a trained run"),
                     (['--lora=a'], "--lora = ['a']: adapters are added to a model")):
    assert cli.main([*words, *more]) == 1
    assert capsys.readouterr().err.startswith(f'jaxgen: {said}')
  assert cli.main(['evaluate', '--workdir=w', '--base=b']) == 1
