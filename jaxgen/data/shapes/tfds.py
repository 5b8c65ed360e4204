"""``shapes`` as a TFDS builder, stored as ArrayRecord: a fixed number of samples on disk.

  python -m jaxgen.data.shapes.tfds FOLDER               # captions, at 32 and 64 px
  python -m jaxgen.data.shapes.tfds FOLDER edit views    # drawn tasks, at 32 px

To read: a source of kind ``tfds`` whose path is the printed folder (``FOLDER/shapes/edit-32px/
1.0.0``), without TensorFlow.
"""

import dataclasses
import sys
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jaxgen.core.errors import UserError
from jaxgen.data.sample import Sample
from jaxgen.data.shapes.geneval import ShapesSource
from jaxgen.data.shapes.problems import Settings
from jaxgen.data.shapes.source import DRAWN
from jaxgen.data.shapes.source import DrawnSource
from jaxgen.data.shapes.source import task_names


@dataclasses.dataclass
class ShapesConfig(tfds.core.BuilderConfig):
  """How many samples of what size.

  Attributes:
    size: side of the images in pixels.
    train, test: samples of the splits.
    seed: of all random choices.
    task: a key of ``DRAWN``; '' = captions.
  """

  size: int = 32
  train: int = 20_000
  test: int = 1_000
  seed: int = 0
  task: str = ''


class Shapes(tfds.core.GeneratorBasedBuilder):
  """Drawn scenes: captions in the manner of GenEval's six tasks, edits, references, dialogues."""

  pkg_dir_path = epath.Path(__file__).parent  # TFDS cannot tell it of a module that is run
  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}
  BUILDER_CONFIGS = [ShapesConfig(name='32px'), ShapesConfig(name='64px', size=64),
                     *(ShapesConfig(name=f'{task}-32px', task=task) for task in DRAWN)]

  def __init__(self, **kwargs):
    # ArrayRecord gives random access without TensorFlow.
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.size
    image = tfds.features.Image(shape=(size, size, 3), encoding_format='png')
    text = tfds.features.Text()
    drawn = bool(self.builder_config.task)
    # Of drawn tasks ``roles`` is the reading order: texts and images are taken as they come.
    features = ({'id': text, 'roles': tfds.features.Sequence(text),
                 'texts': tfds.features.Sequence(text), 'images': tfds.features.Sequence(image)}
                if drawn else {'id': text, 'image': image, 'caption': text})
    return self.dataset_info_from_configs(
        description=__doc__, features=tfds.features.FeaturesDict(features),
        supervised_keys=None if drawn else ('caption', 'image'), license='Apache-2.0')

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in ('train', 'test')}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
    config = self.builder_config
    count = {'train': config.train, 'test': config.test}[split]
    if config.task:
      drawn = DrawnSource(config.task, Settings(((config.size, config.size),)), split, config.seed)
      yield from ((index, _record(drawn[index])) for index in range(count))
    else:
      captioned = ShapesSource(split, config.size, config.seed)
      yield from ((index, captioned[index]) for index in range(count))


def _record(sample: Sample) -> dict[str, str | list[str] | list[np.ndarray]]:
  return {'id': sample.id, 'roles': [part.role for part in sample.parts],
          'texts': [part.text for part in sample.texts],
          'images': [part.image for part in sample.images]}


def main(folder: str, names: Sequence[str] = ()) -> None:
  """Prepares the shipped configs of some drawn tasks, or of the captions, below ``folder``.

  Raises:
    UserError: a task that does not exist.
  """
  tasks = task_names(','.join(names), 'task') if names else ('',)
  for config in Shapes.BUILDER_CONFIGS:
    if config.task in tasks:
      builder = Shapes(config=config, data_dir=folder)
      builder.download_and_prepare()
      print(builder.data_path)


if __name__ == '__main__':
  try:
    main(sys.argv[1], sys.argv[2:])
  except UserError as error:
    sys.exit(str(error))
