"""Each recipe that ships, end to end at a tiny size; what it makes trains a step of its system."""

import dataclasses
import json
import pathlib
from collections.abc import Callable

import pytest

from jaxgen.curation import clips
from jaxgen.curation.commands import curate
from jaxgen.curation.engine import Job
from jaxgen.data.decode import decode
from jaxgen.data.sources import open_source
from tests.curation import training
from tests.curation import videos_of
from tests.curation.videos_of import Scene

RECIPES = pathlib.Path(__file__).parents[2] / 'configs/curation'


@dataclasses.dataclass(frozen=True)
class Case:
  """One recipe.

  Attributes:
    inputs: writes ``--in`` into a folder, and returns it.
    answers: model -> lines of a replay file.
    system, task: what trains on it.
    samples: how many there must be.
    reasons: stage -> reasons of its drops, with their counts.
  """

  inputs: Callable[[pathlib.Path], pathlib.Path]
  answers: dict[str, list[dict]]
  system: str
  task: str
  samples: int
  reasons: dict[str, dict[str, int]]


def two_videos(folder: pathlib.Path) -> pathlib.Path:
  """A video of two pans and a still, one pan that is slower, and a file that is none."""
  pictures = videos_of.textures(4)
  videos_of.write(folder / 'a.mp4', [Scene(pictures[0], 3.0, 40), Scene(pictures[1], 3.0),
                                     Scene(pictures[2], 3.0, 80)])
  videos_of.write(folder / 'b.mp4', [Scene(pictures[3], 3.0, 4)])
  (folder / 'c.mp4').write_bytes(b'no video')
  (folder / 'sources.jsonl').write_text('\n'.join(json.dumps(dict(
      file=f'{name}.mp4', url=f'https://example.org/{name}', licence='CC-BY-4.0'))
      for name in 'ab'))
  return folder


MOVES = [dict(text=clips.TRANSITION_PROMPT, reply='the camera pans to the right')]
CASES = {
    # Pans of 40 and 80 pixels per second three times each, the slow one by chance, two cuts.
    'video_pairs': Case(two_videos, dict(captioner=MOVES), 'imontage', 'edit', 9, dict(
        scenes={'broken': 1}, unlike_ends={'first and last alike': 1})),
    'video_transitions': Case(two_videos, dict(captioner=MOVES), 'duetgen', 'edit', 3, dict(
        scenes={'broken': 1}, unlike_ends={'first and last alike': 1})),
}


@pytest.fixture(scope='module', params=CASES)
def curated(request, tmp_path_factory):
  case, folder = CASES[request.param], tmp_path_factory.mktemp(request.param)
  (folder / 'in').mkdir()
  models = []
  for name, lines in case.answers.items():
    (folder / f'{name}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
    models.append((name, f'replay:{folder / name}.jsonl'))
  job = Job(str(RECIPES / f'{request.param}.py'), str(case.inputs(folder / 'in')),
            str(folder / 'out'), tuple(models), licence='CC0-1.0')
  return case, folder, curate(job)


def test_it_makes_what_was_planted(curated):
  case, folder, tally = curated
  source = open_source('arrayrecord', str(folder / 'out'))
  assert len(source) == case.samples
  info = json.loads((folder / 'out' / 'info.json').read_text())
  for stage in info['stages']:
    assert stage['dropped'] == case.reasons.get(stage['stage'], {}), stage
  for index in range(len(source)):
    sample = source[index]
    assert sample.lineage['licence'] != 'unknown' and sample.lineage['source']
    assert all(decode(part.image).ndim == 3 for part in sample.images)
  for name in case.answers:
    assert list((folder / 'out' / 'calls' / name).rglob('*.json'))


def test_its_samples_train_a_step(curated, tiny_tokenizer):
  case, folder, _ = curated
  training.train_one_step(case.system, case.task, folder / 'out', tiny_tokenizer, folder / 'run')


def test_every_recipe_that_ships_is_here():
  assert {file.stem for file in RECIPES.glob('*.py')} - {'__init__'} == set(CASES)
