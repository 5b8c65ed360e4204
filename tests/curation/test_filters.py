"""Filters honour what their plug-ins return."""

import json

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.core.image_files import to_png
from jaxgen.curation import filters
from jaxgen.curation.models import open_model
from jaxgen.curation.record import Dropped
from jaxgen.curation.record import Lineage
from jaxgen.curation.record import Record

IMAGE = Record('a', dict(image=to_png(np.zeros((8, 8, 3), np.uint8))), Lineage(''))
FACE, SAME, OTHER, WEAK = ([100, 100, 40, 40, .9], [104, 102, 40, 40, .8], [300, 100, 40, 40, .7],
                           [500, 100, 40, 40, .3])


def model(folder, **arrays):
  (folder / 'a.jsonl').write_text(json.dumps(dict(arrays=arrays)))
  return open_model('m', f'replay:{folder / "a.jsonl"}', folder)


@pytest.mark.parametrize('boxes, faces, reason', [
    ([FACE, SAME, WEAK], 1, ''), ([FACE, OTHER, SAME], 2, 'several faces'), ([WEAK], 0, 'no face')])
def test_one_person_is_one_face_after_suppression(tmp_path, boxes, faces, reason):
  landmarks = np.zeros((15, len(boxes)))
  output = np.concatenate([np.transpose(boxes), landmarks]).tolist()
  made = filters.single_face(IMAGE, model=model(tmp_path, output0=output), field='image')
  record = made.record if isinstance(made, Dropped) else made
  assert getattr(made, 'reason', '') == reason and record.lineage.notes == {'faces': faces}


def test_a_model_of_another_kind_is_named(tmp_path):
  with pytest.raises(UserError, match='gives no boxes'):
    filters.single_face(IMAGE, model=model(tmp_path, score=[1.0]), field='image')


@pytest.mark.parametrize('least, most, reason', [
    (0.5, 0.9, ''), (0.8, 1.0, 'nsfw too low'), (0.0, 0.5, 'nsfw too high')])
def test_scores_are_kept_within_bounds(tmp_path, least, most, reason):
  scorer = model(tmp_path, other=[0.1], nsfw=[0.3, 0.7])
  made = filters.scored(IMAGE, model=scorer, field='image', name='nsfw', least=least, most=most,
                        output='nsfw')
  assert getattr(made, 'reason', '') == reason
