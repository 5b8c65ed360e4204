"""The recipe that docs/curation.md explains the stages by does what it says."""

import json
import pathlib
import re

import numpy as np
import pyarrow
from pyarrow import parquet

from jaxgen.core.image_files import to_png
from jaxgen.curation.commands import curate
from jaxgen.curation.engine import Job

PAGE = pathlib.Path(__file__).parents[2] / 'docs/curation.md'


def test_the_recipe_on_the_page_runs(tmp_path):
  recipe, = re.findall(r'```python\n(.*?)```', PAGE.read_text(), re.DOTALL)
  (tmp_path / 'recipe.py').write_text(recipe)
  image, small = (to_png(np.zeros((side, 600, 3), np.uint8)) for side in (520, 100))
  rows = [dict(id=f'{n}', target=small if n == 0 else image, album='one') for n in range(7)]
  parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / 'in.parquet')
  (tmp_path / 'answers.jsonl').write_text(json.dumps(dict(reply='a black field')))
  tally = curate(Job(str(tmp_path / 'recipe.py'), str(tmp_path / 'in.parquet'),
                     str(tmp_path / 'out'), (('captioner', f'replay:{tmp_path}/answers.jsonl'),)))
  large, first_of = tally.stages[:2]
  assert (large.dropped, first_of.dropped) == ({'small': 1}, {'one of many': 2})
  assert sum(tally.licences.values()) == 4
