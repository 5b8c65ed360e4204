"""Each recipe that ships, end to end at a tiny size; what it makes trains a step of its system."""

import dataclasses
import json
import math
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from jaxgen.curation import clips
from jaxgen.curation import dialogues
from jaxgen.curation import edits
from jaxgen.curation import pools
from jaxgen.curation import seeds
from jaxgen.curation.answers import AGAIN
from jaxgen.curation.commands import curate
from jaxgen.curation.domains import DOMAINS
from jaxgen.curation.engine import Job
from jaxgen.data.decode import decode
from jaxgen.data.sources import open_source
from tests.curation import montages_of
from tests.curation import pages_of
from tests.curation import pools_of
from tests.curation import training
from tests.curation import videos_of
from tests.curation import views_of
from tests.curation.videos_of import Scene

RECIPES = pathlib.Path(__file__).parents[2] / 'configs/curation'


@dataclasses.dataclass(frozen=True)
class Case:
  """One recipe.

  Attributes:
    inputs: writes files into a folder, and returns ``--in``.
    answers: model -> lines of a replay file, or a function that writes the file of another kind
      and returns what ``--model`` says of it.
    system, task: what trains on it.
    samples: how many there must be.
    reasons: stage -> reasons of its drops, with their counts.
    change: of the recipe's text, for inputs that are so few.
  """

  inputs: Callable[[pathlib.Path], str]
  answers: dict[str, list[dict] | Callable[[pathlib.Path], str]]
  system: str
  task: str
  samples: int
  reasons: dict[str, dict[str, int]]
  change: tuple[str, str] = ('', '')


def two_videos(folder: pathlib.Path) -> str:
  """A video of two pans and a still, one pan that is slower, and a file that is none."""
  pictures = videos_of.textures(4)
  videos_of.write(folder / 'a.mp4', [Scene(pictures[0], 3.0, 40), Scene(pictures[1], 3.0),
                                     Scene(pictures[2], 3.0, 80)])
  videos_of.write(folder / 'b.mp4', [Scene(pictures[3], 3.0, 4)])
  (folder / 'c.mp4').write_bytes(b'no video')
  (folder / 'sources.jsonl').write_text('\n'.join(json.dumps(dict(
      file=f'{name}.mp4', url=f'https://example.org/{name}', licence='CC-BY-4.0'))
      for name in 'ab'))
  return str(folder)


def bread_answers() -> dict[str, list[dict]]:
  """What models say of the site of ``pages_of``: the writer once in a wrong form, then mended."""
  said, places = 'a step of the work', {1: 4, 2: 6, 3: 8}
  page = pages_of.CLEAN.format(said, said, said)
  again = page.replace('Bread is', 'It is')
  images = {number: f'![{said}]({number})' for number in places}
  texts = [block for block in again.split('\n\n') if block not in images.values()]
  order = '\n\n'.join([*(f'Paragraph {place}: {text}' for place, text in enumerate(texts, 1)),
                       *(f'Image {number}: {image}' for number, image in images.items())])
  moved = '\n\n'.join(block for place, text in enumerate(texts, 1) for block in (
      text, *(images[number] for number, own in places.items() if own == place)))
  turns = [dict(role='user', content='How do I bake bread?'),
           dict(role='assistant', content='Mix it. ![](1) Let it rise. ![](2) Bake it. ![](3)')]
  wrong, error = json.dumps(turns[:1]), (
      'it must have 2 to 24 turns, the first of the user and the last of the assistant')
  return dict(
      vision=[dict(text=dialogues.DESCRIBE, reply=json.dumps(dict(caption=said, category='photo'))),
              dict(text=dialogues.REORDER + order, reply=json.dumps(places))],
      writer=[dict(text=dialogues.REWRITE + page, reply=again),
              dict(text=dialogues.DIALOGUE + moved, reply=wrong),
              dict(text=AGAIN.format(text=dialogues.DIALOGUE + moved, answer=wrong, error=error),
                   reply=json.dumps(turns))])


def edit_answers() -> dict[str, list[dict] | Callable[[pathlib.Path], str]]:
  """What models say of the edits of ``pools_of``."""
  scores = {'Add a hat to the image.': (9, 9), 'Make it night': (8, 7), 'Make it bad': (3, 9),
            'Make it ugly': (9, 3)}
  words = ('Do nothing at all', 'Draw something new', *scores)
  spoken = {'Add a hat to the image.': '加一顶帽子', 'Remove a hat from the image.': '去掉帽子',
            'Make it night': '改成夜晚', 'Make it day': '改成白天'}
  return dict(
      images=pools_of.tower,
      texts=[dict(text=text, arrays=dict(embedding=[1.0] * 48)) for text in words],
      judge=[dict(text=edits.JUDGE.format(text=text), reply=json.dumps(
          dict(fidelity=fidelity, quality=quality)))
             for text, (fidelity, quality) in scores.items()],
      writer=[dict(text=edits.INVERT.format(text='Make it night'), reply='"Make it day"'),
              *(dict(text=edits.TRANSLATE.format(text=text, language='Chinese'), reply=said)
                for text, said in spoken.items())])


def two_seeds(folder: pathlib.Path) -> str:
  """A table of two seeds."""
  (folder / 'seeds.jsonl').write_text('\n'.join(json.dumps(dict(
      id=name, domain='Arts & Crafts', category=name, seed=f'How does one do {name}?'))
      for name in ('knitting', 'origami')))
  return str(folder / 'seeds.jsonl')


def seed_answers() -> dict[str, list[dict] | Callable[[pathlib.Path], str]]:
  """Ten instructions of each seed of ``two_seeds``, one of which both have."""
  lines, siblings = [], DOMAINS['Arts & Crafts']
  for name in ('knitting', 'origami'):
    asked = [f'Make thing {number} by {name}' for number in range(9)] + ['Make a paper hat']
    lines.append(dict(reply=json.dumps(asked), text=seeds.EXPAND.format(
        count=10, domain='Arts & Crafts', category=name, seed=f'How does one do {name}?',
        siblings=', '.join(other for other in siblings if other != name))))
    lines += [dict(text=seeds.ANSWER.format(instruction=each, least=2, most=6), reply=json.dumps(
        [dict(text=f'Do step {step}.', picture='hands') for step in (1, 2)])) for each in asked]

  def painter(file: pathlib.Path) -> str:
    (file.parent / 'hands.png').write_bytes(pools_of.picture(pools_of.signs(0), 64))
    file.write_text(json.dumps(dict(text='hands', images=['hands.png'])))
    return f'replay:{file}'

  return dict(writer=lines, painter=painter)


MOVES = [dict(text=clips.TRANSITION_PROMPT, reply='the camera pans to the right')]
CASES = {
    # Pans of 40 and 80 pixels per second three times each, the slow one by chance, two cuts.
    'video_pairs': Case(two_videos, dict(captioner=MOVES), 'imontage', 'edit', 9, dict(
        scenes={'broken': 1}, unlike_ends={'first and last alike': 1})),
    'video_transitions': Case(two_videos, dict(captioner=MOVES), 'duetgen', 'edit', 3, dict(
        scenes={'broken': 1}, unlike_ends={'first and last alike': 1})),
    'web_dialogues': Case(pages_of.site, bread_answers(), 'duetgen', 'dialogue', 1, dict(
        main_content={'broken': 1, 'no such image': 2},
        worthy_images={'icon': 1, 'advertisement': 2, 'QR code': 1, 'user interface': 1},
        unlike_neighbours={'like its neighbour': 1}, substantial={'too few images': 1})),
    'caption_pairs': Case(
        pools_of.documents, dict(features=pools_of.tower, writer=[dict(
            text=pools.INSTRUCT, reply="['The same mug from above', '同一个杯子的俯视图'.]")]),
        'query_kontext', 'transformation', 1, dict(
            captioned_images={'small image': 1, 'broken image': 1},
            pairs={'no like image': 1, 'not in a pair': 1, 'out of bounds': 2,
                   'alone under its caption': 1})),
    'edits': Case(pools_of.edits, edit_answers(), 'query_kontext', 'edit', 4, dict(
        similar={'nothing changed': 1, 'target unlike its source': 1},
        judged={'not as instructed': 1, 'poor image': 1})),
    'seed_prompts': Case(two_seeds, seed_answers(), 'duetgen', 'dialogue', 19, dict(
        unrepeated={'said before': 1})),
    # Six compositions of seven images, two of which are drawn as a model must not.
    'references': Case(
        montages_of.people, montages_of.reference_answers(), 'imontage', 'many_to_many', 4, dict(
            opened={'no such role': 1, 'small image': 3}, alike={'unlike its references': 1},
            judged={'quality too low': 1}), ('packs=256', 'packs=1')),
    # One picture has no references, of another no map shows anything.
    'controls': Case(montages_of.echo, dict(depth=montages_of.depth, pose=montages_of.NOBODY),
                     'imontage', 'many_to_many', 2, dict(
                         reference_fields={'no picture of references': 1},
                         mapped={'empty map': 1})),
    'styles': Case(montages_of.styled, montages_of.style_answers(), 'imontage', 'many_to_many', 1,
                   dict(opened={'no such role': 1, 'small image': 2},
                        content_kept={'subject of the style image': 1}), ('packs=256', 'packs=1')),
    'multi_turn': Case(montages_of.turned, montages_of.turn_answers(), 'imontage', 'many_to_many',
                       3, dict(judged_turns={'not as instructed': 1})),
    'multi_view': Case(views_of.mvimgnet, {}, 'imontage', 'many_to_many', 1, dict(
        chosen={'broken': 1, 'still camera': 1, 'few views': 1})),
    'storyboards': Case(montages_of.characters, montages_of.storyboard_answers(), 'imontage',
                        'many_to_many', 2, dict(opened={'small image': 1},
                                                scored={'nsfw too high': 1})),
    'removals': Case(montages_of.objects, montages_of.removal_answers(), 'query_kontext', 'edit', 2,
                     dict(wider_mask={'large mask': 1})),
}


def job_of(name: str, folder: pathlib.Path, recipe: str = '') -> Job:
  """Writes inputs and answers of a case into a folder."""
  case = CASES[name]
  (folder / 'in').mkdir()
  models = []
  for model, lines in case.answers.items():
    file = folder / model
    if callable(lines):
      models.append((model, lines(file)))
    else:
      file.write_text('\n'.join(map(json.dumps, lines)))
      models.append((model, f'replay:{file}'))
  if not recipe:
    text = (RECIPES / f'{name}.py').read_text()
    assert case.change[0] in text
    recipe = str(folder / f'{name}.py')
    pathlib.Path(recipe).write_text(text.replace(*case.change) if case.change[0] else text)
  return Job(recipe, str(case.inputs(folder / 'in')),
             str(folder / 'out'), tuple(models), licence='CC0-1.0')


@pytest.fixture(scope='module')
def outputs(tmp_path_factory):
  """name -> folder of a recipe's output; each recipe runs once."""
  made = {}

  def of(name):
    if name not in made:
      job = job_of(name, tmp_path_factory.mktemp(name))
      curate(job)
      made[name] = pathlib.Path(job.out)
    return made[name]
  return of


@pytest.mark.parametrize('name', CASES)
def test_it_makes_what_was_planted(outputs, name):
  case, out = CASES[name], outputs(name)
  source = open_source('arrayrecord', str(out))
  assert len(source) == case.samples
  dropped = {}
  for stage in json.loads((out / 'info.json').read_text())['stages']:
    # Some stages stand in a recipe several times.
    dropped[stage['stage']] = dropped.get(stage['stage'], {}) | stage['dropped']
  assert {stage: reasons for stage, reasons in dropped.items() if reasons} == case.reasons
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


def test_pages_go_on_after_a_kill_to_the_same_bytes(tmp_path):
  """Six pages one by one, killed after the second."""
  recipe = tmp_path / 'recipe.py'
  recipe.write_text((RECIPES / 'web_dialogues.py').read_text().replace('chunk=64', 'chunk=1'))
  for name in ('whole', 'killed'):
    (tmp_path / name).mkdir()
    job = job_of('web_dialogues', tmp_path / name, str(recipe))
    page, facts = (pathlib.Path(job.source) / file for file in ('bread.html', 'sources.jsonl'))
    line = facts.read_text()
    for number in range(5):
      (page.parent / f'bread{number}.html').write_bytes(page.read_bytes())
      facts.write_text(facts.read_text() + '\n' + line.replace('bread.html', f'bread{number}.html'))
    if name == 'whole':
      curate(job)
  words = [f'--{flag}={value}' for flag, value in (
      ('in', job.source), ('out', job.out), ('licence', job.licence),
      *(('model', f'{model}={spec}') for model, spec in job.models))]
  process = subprocess.Popen([sys.executable, '-m', 'jaxgen.cli', 'curate', recipe, *words],
                             cwd=RECIPES.parents[1], stderr=subprocess.DEVNULL)
  chunks = pathlib.Path(job.out) / 'chunks'
  while not (chunks / '0-00002.json').exists():
    assert process.poll() is None
    time.sleep(0.002)
  process.kill()
  process.wait()
  assert not (chunks / '0-00007.json').exists()
  curate(job)
  whole, killed = (tmp_path / name / 'out' for name in ('whole', 'killed'))
  shards = sorted(file.name for file in whole.glob('*.arrayrecord'))
  assert len(shards) == 6
  for name in (*shards, 'info.json'):
    assert (killed / name).read_bytes() == (whole / name).read_bytes()


def test_every_recipe_that_ships_is_here():
  assert {file.stem for file in RECIPES.glob('*.py')} - {'__init__'} == set(CASES)
