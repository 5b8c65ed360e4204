"""Marks of answers to drawn dialogues: 1 for the true ones, and each mistake where it belongs."""

import numpy as np
import pytest

from jaxgen.data.shapes.problems import Picture
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.scenes import draw_scene
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.evaluation.shapes.dialogues import mark_answer

NUMBERS = ('correct', 'image', 'order', 'text', 'exact', 'grammar')


def problem_and_answer(task: str, index: int = 0):
  """A problem, and its true answer."""
  problem, _ = DrawnSource(task, Settings(((32, 32),)), 'test').problem(index)
  return problem, [draw_scene(part.scene, (32, 32)) if isinstance(part, Picture) else part.text
                   for part in problem.parts if part.role in ('assistant', 'target')]


def of(marks, *names) -> list:
  return [[mark[name] for name in names] for mark in marks]


@pytest.mark.parametrize('task', ['guide', 'session'])
def test_the_true_answer_is_right_in_every_respect(task):
  for index in range(10):
    problem, answer = problem_and_answer(task, index)
    first, *rest = mark_answer(answer, problem)
    assert [first[name] for name in NUMBERS] == [True, True, True, True, 1, 1]
    assert of(rest, *NUMBERS) == [[True, True, None, None, None, None]] * len(rest)
    assert len(rest) + 1 == len(problem.targets)
    assert all(mark['cells'] == 1 and mark['consistent'] in (None, 1) for mark in rest)


def test_a_wrong_text_spoils_its_step_and_those_behind_it():
  problem, answer = problem_and_answer('guide')
  answer[2] = answer[0]
  first, second, *rest = mark_answer(answer, problem)
  assert first['correct'] and first['image'] and first['order'] and not first['text']
  assert first['exact'] == pytest.approx(1 - 1 / len(answer[::2])) and first['grammar'] == 1
  assert of([second, *rest], 'correct', 'image') == [[False, None]] * (1 + len(rest))
  assert second['cells'] == 1  # what it shows is marked all the same


def test_a_wrong_image_is_wrong_behind_its_text():
  problem, answer = problem_and_answer('guide')
  answer[3] = np.full_like(answer[3], 200)
  _, second, *_ = mark_answer(answer, problem)
  assert second['correct'] is False and second['image'] is False and second['cells'] < 1


def test_images_too_few_or_too_many_are_out_of_order():
  problem, answer = problem_and_answer('session', 1)
  short = mark_answer(answer[:1], problem)
  assert len(short) == len(problem.targets) and not short[0]['order']
  assert of(short, 'correct', 'cells') == [[False, 0.0]] * len(short)
  assert not any(mark['correct'] for mark in mark_answer([], problem))
  doubled = mark_answer([*answer, answer[-2]], problem)
  assert not doubled[0]['order'] and all(mark['correct'] for mark in doubled)
  silent = mark_answer([part for part in answer if not isinstance(part, str)], problem)
  assert not any(mark['correct'] for mark in silent) and silent[0]['exact'] == 0
