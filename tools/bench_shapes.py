"""Times the drawn world: samples per second of one core, and images that the scorer reads back.

  python tools/bench_shapes.py

Every sample is a new one, as in training, with all its pictures in pixels. The scorer marks
pictures as they are drawn, and with the noise of a model's output. Rates are per second of
processor time, so that other programs of the machine do not count: medians of the repetitions.
"""

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from collections.abc import Iterator

import numpy as np
from timing import machine

from jaxgen.data.shapes.geneval import draw
from jaxgen.data.shapes.geneval import evaluation_prompts
from jaxgen.data.shapes.geneval import ShapesSource
from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.scenes import draw_scene
from jaxgen.data.shapes.source import DRAWN
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.evaluation.shapes import captions
from jaxgen.evaluation.shapes.marks import mark

SIZE = 32  # of the images of samples
DIALOGUES = ('guide', 'session')
GOALS = {'image': 2000, 'dialogue': 300, 'scorer': 500}
CANVASES = ((32, (2, 2)), (64, (4, 4)), (256, (2, 2)))
SCORED = ('edit', 'reference', 'style')  # a style is read as four
NOISE = 12  # standard deviation, of 255


def main() -> None:
  """Prints a row for each task, and one for each size that the scorer reads."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--count', type=int, default=500, help='samples or images of a repetition')
  parser.add_argument('--repeats', type=int, default=5)
  flags = parser.parse_args()
  print(f'{machine()}, {flags.count} samples or images, medians of {flags.repeats}', flush=True)
  print('| what | per second of one core | goal |\n|---|---|---|')
  for name, goal, call in sides(flags.count):
    print(f'| {name} | {rate(call, flags.count, flags.repeats):,.0f} | {goal:,} |', flush=True)


def sides(count: int) -> Iterator[tuple[str, int, Callable[[int], object]]]:
  """Name, goal and a function of the number of the sample or image."""
  yield f'captions, {SIZE} px', GOALS['image'], ShapesSource(size=SIZE).__getitem__
  for task in DRAWN:
    goal = GOALS['dialogue' if task in DIALOGUES else 'image']
    yield f'{task}, {SIZE} px', goal, DrawnSource(task, Settings(((SIZE, SIZE),))).__getitem__
  yield f'scorer, captions, {SIZE} px', GOALS['scorer'], caption_scorer(count)
  for (size, grid), task, noise in itertools.product(CANVASES, SCORED, (0, NOISE)):
    name = f'scorer, {task}, {size} px, {grid[0]} x {grid[1]}' + (', noise' if noise else '')
    yield name, GOALS['scorer'], scorer(task, size, grid, noise, count)


def caption_scorer(count: int) -> Callable[[int], bool]:
  """Scores pictures of captions, over and over."""
  scenes = evaluation_prompts(-(-count // 6))[:count]
  images = [draw(scene.objects, SIZE) for scene in scenes]
  return lambda index: captions.score(images[index % count], scenes[index % count].request)


def scorer(task: str, size: int, grid: tuple[int, int], noise: int, count: int
           ) -> Callable[[int], object]:
  """Marks pictures of a task, over and over."""
  source = DrawnSource(task, Settings(((size, size),), (grid,)), 'test')
  pictures: list[Picture] = [source.problem(index)[0].targets[0] for index in range(count)]
  rng = np.random.default_rng(0)
  images = [draw_scene(picture.scene, (size, size)) for picture in pictures]
  if noise:
    images = [np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
              for image in images]
  return lambda index: mark(images[index % count], pictures[index % count])


def rate(call: Callable[[int], object], count: int, repeats: int) -> float:
  """Calls per second of processor time, after some that fill the tables of drawn objects."""
  numbers = itertools.count()
  rates = []
  for repeat in range(repeats + 1):
    start = time.process_time()
    for index in itertools.islice(numbers, count):
      call(index)
    rates += [count / (time.process_time() - start)] if repeat else []
  return statistics.median(rates)


if __name__ == '__main__':
  main()
