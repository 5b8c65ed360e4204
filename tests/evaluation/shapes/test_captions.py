"""The scorer reads its own ground truth without an error and is not fooled by other captions."""

import numpy as np
import pytest

from jaxgen.data.shapes import geneval
from jaxgen.evaluation.evaluate import accuracies
from jaxgen.evaluation.shapes import captions


@pytest.mark.parametrize('size', [24, 32, 64])
def test_perfect_on_ground_truth_and_near_chance_on_shuffled_captions(size):
  source = geneval.ShapesSource('test', size)
  scenes = [source.scene(index) for index in range(600)]
  images = [geneval.draw(scene.objects, size) for scene in scenes]
  right = accuracies(
      [(scene.task, [dict(correct=captions.score(image, scene.request))])
       for scene, image in zip(scenes, images)])
  assert right == dict.fromkeys([*geneval.TASKS, 'overall'], 1.0)
  order = np.random.default_rng(0).permutation(len(scenes))
  shuffled = accuracies(
      [(scenes[other].task,
        [dict(correct=captions.score(images[index], scenes[other].request))])
       for index, other in enumerate(order)])
  assert shuffled['overall'] < 0.25 and shuffled['color_attribution'] < 0.05


def test_detection_names_every_object_with_its_colour():
  source = geneval.ShapesSource('train', 32, seed=5)
  for index in range(300):
    objects = source.scene(index).objects
    found = captions.detect(geneval.draw(objects, 32))
    assert sorted((item.shape, item.color) for item in found) == sorted(
        (item.shape, item.color) for item in objects)


def _scene(*objects):
  return geneval.draw(tuple(geneval.Object(*item) for item in objects), 32)


def test_verdicts_follow_the_rules_of_each_task():
  red_left = _scene(('circle', 'red', .25, .5, .18), ('square', 'blue', .75, .5, .18))
  circle, square = ('circle', None), ('square', None)
  request = geneval.Request
  verdicts = [
      (request('single_object', (circle,)), True),  # more objects than asked for are allowed
      (request('single_object', (('cross', None),)), False),
      (request('counting', (circle, circle)), False),
      (request('colors', (('circle', 'red'),)), True),
      (request('colors', (('circle', 'blue'),)), False),
      (request('two_object', (square, circle)), True),
      (request('position', (circle, square), 'left of'), True),
      (request('position', (circle, square), 'right of'), False),
      (request('position', (circle, square), 'above'), False),
      (request('color_attribution', (('circle', 'red'), ('square', 'blue'))), True),
      (request('color_attribution', (('circle', 'blue'), ('square', 'red'))), False),
  ]
  for asked, verdict in verdicts:
    assert captions.score(red_left, asked) is verdict, asked.caption
  three = _scene(*(('cross', 'white', x, y, .15) for x, y in ((.2, .2), (.8, .2), (.5, .8))))
  cross = ('cross', None)
  assert captions.score(three, request('counting', (cross,) * 3))
  assert not captions.score(three, request('counting', (cross,) * 2))


def test_grey_and_noise_hold_no_objects():
  rng = np.random.default_rng(0)
  assert captions.detect(np.full((32, 32, 3), 128, np.uint8)) == []
  noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
  assert len(captions.detect(noise)) <= 1
