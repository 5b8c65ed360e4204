"""The branches of guidance: which samples they rewrite, and what their weights add up to."""

import copy

import numpy as np
import pytest

from jaxgen.data.sample import Part
from jaxgen.data.sample import Sample
from jaxgen.sampling.request import make_request
from jaxgen.systems import parts
from jaxgen.systems.registry import make_system

IMAGE = np.zeros((8, 8, 3), np.uint8)
TARGET = Part('target', loss=True, size=(16, 16))


def edit(*texts: str) -> Sample:
  """An edit with one text before the source and the others behind it."""
  return Sample('edit', (Part('user', text=texts[0]), Part('source', image=IMAGE),
                         *(Part('user', text=text) for text in texts[1:]), TARGET))


def told(sample: Sample) -> list[str]:
  """Texts, and roles of images, before the target."""
  return [part.role if part.is_image else part.text for part in sample.parts[:-1]]


def guided(branches, velocities: dict[str, float]) -> float:
  """The weighted sum of velocities that are named after what their sample tells."""
  return sum(weight * velocities[' '.join(told(sample))] for weight, sample in branches)


def test_text_and_image_scales():
  c, r, u = 2.5, -1.0, 0.75
  velocities = {'make it red source': c, 'source nothing': r, 'nothing': u}
  for text, image in ((5.0, 2.0), (4.0, 1.0), (1.0, 1.0), (3.0, 3.0), (1.0, 2.0)):
    branches = parts.text_and_image_branches(edit('make it red'), text, image, 'nothing')
    assert guided(branches, velocities) == pytest.approx(u + image * (r - u) + text * (c - r))
    assert sum(weight for weight, _ in branches) == pytest.approx(1)
  counts = {scales: len(parts.text_and_image_branches(edit('make it red'), *scales, 'nothing'))
            for scales in ((5.0, 2.0), (4.0, 1.0), (3.0, 3.0), (1.0, 1.0))}
  assert list(counts.values()) == [3, 2, 2, 1]  # a branch of weight 0 costs no forward


def test_without_images_the_text_scale_is_all_there_is():
  sample = Sample('caption', (Part('user', text='a cat'), TARGET))
  branches = parts.text_and_image_branches(sample, 4.0, 2.0, 'nothing')
  assert [(weight, told(branch)) for weight, branch in branches] == [
      (4.0, ['a cat']), (-3.0, ['nothing'])]


def test_the_last_text_alone_is_taken_away():
  """L119: the images and all earlier texts stay."""
  (scale, asked), (rest, without) = parts.text_branches(
      edit('a story', 'and then'), 3.0, 'last_text', 'nothing')
  assert (scale, rest) == (3.0, -2.0) and told(asked) == ['a story', 'source', 'and then']
  assert told(without) == ['a story', 'source'] and without.targets == asked.targets


def test_the_negative_prompt_of_the_config(tiny_base):
  config = copy.deepcopy(tiny_base)
  request = make_request(config, 'a cat', guidance=2.0)

  def words():
    _, (weight, sample) = make_system(config).branches(request.sample, request.scales)
    return weight, told(sample)

  assert words() == (-1.0, [config.data.empty_prompt])
  config.sampling.negative_prompt = 'blurry'
  assert words() == (-1.0, ['blurry'])
