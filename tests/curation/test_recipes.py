"""Each recipe that ships, end to end at a tiny size; what it makes trains a step of its system."""

import dataclasses
import json
import math
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


@pytest.fixture(scope='module')
def outputs(tmp_path_factory):
  """name -> folder of a recipe's output; each recipe runs once."""
  made = {}

  def of(name):
    if name not in made:
      case, folder = CASES[name], tmp_path_factory.mktemp(name)
      (folder / 'in').mkdir()
      models = []
      for model, lines in case.answers.items():
        (folder / f'{model}.jsonl').write_text('\n'.join(map(json.dumps, lines)))
        models.append((model, f'replay:{folder / model}.jsonl'))
      curate(Job(str(RECIPES / f'{name}.py'), str(case.inputs(folder / 'in')),
                 str(folder / 'out'), tuple(models), licence='CC0-1.0'))
      made[name] = folder / 'out'
    return made[name]
  return of


@pytest.mark.parametrize('name', CASES)
def test_it_makes_what_was_planted(outputs, name):
  case, out = CASES[name], outputs(name)
  source = open_source('arrayrecord', str(out))
  assert len(source) == case.samples
  for stage in json.loads((out / 'info.json').read_text())['stages']:
    assert stage['dropped'] == case.reasons.get(stage['stage'], {}), stage
  for index in range(len(source)):
    sample = source[index]
    assert sample.lineage['licence'] != 'unknown' and sample.lineage['source']
    assert all(decode(part.image).ndim == 3 for part in sample.images)
  for model in case.answers:
    assert list((out / 'calls' / model).rglob('*.json'))


@pytest.mark.parametrize('system', sorted({case.system for case in CASES.values()}))
def test_the_samples_train_a_step_of_their_system(outputs, tiny_tokenizer, tmp_path, system):
  folders = {name: (case.task, outputs(name)) for name, case in CASES.items()
             if case.system == system}
  loss = training.train_one_step(system, folders, tiny_tokenizer, tmp_path / 'run')
  assert math.isfinite(loss)


def test_every_recipe_that_ships_is_here():
  assert {file.stem for file in RECIPES.glob('*.py')} - {'__init__'} == set(CASES)
