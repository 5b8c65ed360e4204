"""The drawn scenes: repeatable, endless, in the manner of six tasks, with captions held out."""

import collections

import numpy as np

from jaxgen.data.shapes import drawing
from jaxgen.data.shapes import geneval


def test_record_is_a_pure_function_of_seed_split_and_index():
  first, again = geneval.ShapesSource(size=32, seed=3), geneval.ShapesSource(size=32, seed=3)
  for index in (0, 7, 2**33):
    a, b = first[index], again[index]
    assert a['id'] == b['id'] and a['caption'] == b['caption']
    np.testing.assert_array_equal(a['image'], b['image'])
  other = geneval.ShapesSource(size=32, seed=4)
  assert any(other[i]['caption'] != first[i]['caption'] for i in range(10))


def test_tasks_are_as_frequent_as_their_weights_and_training_never_shows_a_held_out_caption():
  source = geneval.ShapesSource(size=16)
  scenes = [source.scene(index) for index in range(3000)]
  counts = collections.Counter(scene.task for scene in scenes)
  assert set(counts) == set(geneval.TASKS)
  for task, weight in geneval.TASK_WEIGHTS.items():
    expected = len(scenes) * weight / sum(geneval.TASK_WEIGHTS.values())
    assert abs(counts[task] - expected) < 5 * np.sqrt(expected)
  held_out = {request.caption for task in geneval.HELD_OUT_TASKS
              for request in geneval.requests('test')[task]}
  assert held_out and not held_out & {scene.caption for scene in scenes}
  # Nor the same wish with the objects in the other order.
  assert not held_out & {scene.request.mirrored.caption for scene in scenes}
  assert {request.relation for request in geneval.requests('test')['position']} == set(
      geneval.RELATIONS)


def test_objects_stand_in_cells_of_their_own_and_in_the_asked_relation():
  source = geneval.ShapesSource(size=16, seed=1)
  used = set()
  for scene in map(source.scene, range(500)):
    cells = [(int(item.x * geneval.CELLS), int(item.y * geneval.CELLS)) for item in scene.objects]
    assert len(set(cells)) == len(cells)
    used |= set(cells)
    assert all(item.radius < 0.5 / geneval.CELLS for item in scene.objects)
    if scene.request.relation:
      dx, dy = geneval.RELATIONS[scene.request.relation]
      first, second = scene.objects
      assert dx * (first.x - second.x) + dy * (first.y - second.y) > 0.25
  assert len(used) == geneval.CELLS**2


def test_captions_read_like_geneval():
  texts = geneval.captions()
  assert 'a photo of three crosses' in texts
  assert 'a photo of an orange circle and a blue square' in texts
  assert 'a photo of a circle left of a triangle' in texts
  assert len(texts) == 4 + 32 + 12 + 12 + 48 + 12 * 8 * 7


def test_evaluation_prompts_cover_every_task_without_repeats():
  scenes = geneval.evaluation_prompts(12)
  by_task = collections.defaultdict(list)
  for scene in scenes:
    by_task[scene.task].append(scene.caption)
  assert {task: len(texts) for task, texts in by_task.items()} == dict.fromkeys(geneval.TASKS, 12)
  assert len(set(by_task['color_attribution'])) == 12
  assert len(set(by_task['single_object'])) == 4  # there are no more


def test_coverage_has_the_areas_that_the_scorer_relies_on():
  axis = np.arange(-60, 60) + 0.5
  for shape, area in drawing.UNIT_AREA.items():
    drawn = drawing.coverage(shape, axis[None], axis[:, None], 50.0).sum() / 50.0**2
    assert abs(drawn - area) < 0.02 * area, shape
