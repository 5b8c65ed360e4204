"""Marks: full on the truth, near chance on shuffled pairs, none for a copied input."""

import dataclasses

import numpy as np
import pytest

from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.problems import Words
from jaxgen.data.shapes.scenes import draw_scene
from jaxgen.data.shapes.source import DRAWN
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.evaluation.shapes.marks import is_sentence
from jaxgen.evaluation.shapes.marks import mark
from jaxgen.evaluation.shapes.marks import mark_dialogue
from jaxgen.evaluation.shapes.marks import mark_series

COUNT = 60
# What a picture of another problem may get right by chance.
CHANCE = {'partial': 0.3, 'control': 0.1, 'reconstruction': 0.05}


def problems(task, count=COUNT, size=(32, 32), **settings):
  source = DrawnSource(task, Settings((size,), **settings), 'test')
  return [source.problem(index)[0] for index in range(count)]


@pytest.mark.parametrize('task', DRAWN)
@pytest.mark.parametrize('size, grid', [((16, 16), (2, 2)), ((64, 48), (4, 3))])
def test_the_truth_is_right_in_every_respect(task, size, grid):
  for problem in problems(task, 20, size, grids=(grid,)):
    for picture in problem.targets:
      for scene in (picture.scene, *picture.also[:3]):
        marks = mark(draw_scene(scene, size), picture)
        assert marks.correct and marks.style and marks.cells == 1
        assert marks.kept in (None, 1) and marks.identity in (None, 1)


@pytest.mark.parametrize('task', DRAWN)
def test_pictures_of_other_problems_are_wrong(task):
  targets = [picture for problem in problems(task) for picture in problem.targets]
  images = [draw_scene(picture.scene, (32, 32)) for picture in targets]
  right = [mark(image, picture).correct
           for image, picture in zip(images[7:] + images[:7], targets, strict=True)
           if picture.scene.grid == (2, 2)]
  assert np.mean(right) <= CHANCE.get(task, 0.02)


@pytest.mark.parametrize('task', [name for name in DRAWN if name not in (
    'scene', 'partial', 'reconstruction', 'guide')])
def test_a_copied_input_is_wrong(task):
  copied = []
  for problem in problems(task):
    given = [part.scene for part in problem.parts
             if isinstance(part, Picture) and part.role != 'target']
    for picture in problem.targets:
      if picture.scene not in given:  # a series of views may come back to the first
        copied += [mark(draw_scene(scene, (32, 32)), picture).correct for scene in given
                   if scene.grid == picture.scene.grid]
  assert copied and not any(copied)


def test_each_respect_is_marked_by_itself():
  problem = next(problem for problem in problems('edit') for picture in problem.targets
                 if len(picture.before.filled) == 3)
  picture, = problem.targets
  lost = dataclasses.replace(picture.scene, items=(None,) * 4)
  marks = mark(draw_scene(lost, (32, 32)), picture)
  assert not marks.correct and marks.style and marks.kept < 1
  other = dataclasses.replace(picture.scene, ground='grey' if picture.scene.ground != 'grey'
                              else 'pink')
  marks = mark(draw_scene(other, (32, 32)), picture)
  assert not marks.correct and not marks.style and marks.cells == 1 and marks.kept in (None, 1)

  picture, = problems('transformation', 1)[0].targets
  item, = picture.identity
  twin = dataclasses.replace(item, colors=item.colors[::-1])
  cell, = picture.scene.filled
  wrong = mark(draw_scene(picture.scene.placed({cell: twin}), (32, 32)), picture)
  assert wrong.identity == wrong.recognised == 0 and not wrong.correct
  elsewhere = dataclasses.replace(picture.scene, items=picture.scene.items[::-1])
  moved = mark(draw_scene(elsewhere, (32, 32)), picture)
  assert moved.identity == 1 and moved.recognised is None and not moved.correct


def test_outputs_of_a_series_are_compared_with_each_other():
  pictures = next(problem.targets for problem in problems('storyboard')
                  if len(problem.targets) == 2
                  and all(len(picture.scene.filled) == 1 for picture in problem.targets))
  item, = pictures[0].identity
  twin = dataclasses.replace(item, colors=item.colors[::-1])

  def consistent(*drawn):
    """``consistent`` of each panel, where an item stands in its cell."""
    images = [draw_scene(picture.scene.placed({picture.scene.filled[0]: item}), (32, 32))
              for picture, item in zip(pictures, drawn, strict=True)]
    return [marks.consistent for marks in mark_series(images, pictures)]

  assert consistent(item, item) == consistent(twin, twin) == [None, 1]
  assert consistent(item, twin) == consistent(item, None) == [None, 0]


@pytest.mark.parametrize('task', ['guide', 'session'])
def test_text_of_dialogues(task):
  for problem in problems(task, 20, languages=('en', 'zh')):
    answer = [draw_scene(part.scene, (32, 32)) if isinstance(part, Picture) else part.text
              for part in problem.parts
              if part.role == 'target' or isinstance(part, Words) and part.role == 'assistant']
    assert dataclasses.astuple(mark_dialogue(answer, problem)) == (True, 1, 1)
    changed = [part.replace('1', '2') if isinstance(part, str) else part for part in answer]
    marks = mark_dialogue(changed, problem)
    assert marks.order and marks.exact < 1 and marks.grammar == 1
    silent = [part for part in answer if isinstance(part, str)]
    assert not mark_dialogue(silent, problem).order
    assert mark_dialogue([], problem).exact == 0
  assert not is_sentence('step 1: sing a song.') and not is_sentence('')
