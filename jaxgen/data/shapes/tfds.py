"""``shapes`` as a TFDS builder, stored as ArrayRecord: a fixed number of scenes on disk.

To prepare: ``python -m jaxgen.data.shapes.tfds FOLDER``; to read: a source of kind ``tfds`` whose
path is the prepared folder (``FOLDER/shapes/32px/1.0.0``), without TensorFlow.
"""

import dataclasses
import sys
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

from jaxgen.data.shapes.geneval import ShapesSource


@dataclasses.dataclass
class ShapesConfig(tfds.core.BuilderConfig):
  """How many scenes of what size."""

  size: int = 32
  train: int = 20_000
  test: int = 1_000
  seed: int = 0


class Shapes(tfds.core.GeneratorBasedBuilder):
  """Compositional scenes with captions in the manner of GenEval's six tasks."""

  VERSION = tfds.core.Version('1.0.0')
  RELEASE_NOTES = {'1.0.0': 'First version.'}
  BUILDER_CONFIGS = [ShapesConfig(name='32px'), ShapesConfig(name='64px', size=64)]

  def __init__(self, **kwargs):
    # ArrayRecord gives random access without TensorFlow.
    super().__init__(file_format='array_record', **kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    size = self.builder_config.size
    return self.dataset_info_from_configs(
        description=__doc__,
        features=tfds.features.FeaturesDict({
            'id': tfds.features.Text(),
            'image': tfds.features.Image(shape=(size, size, 3), encoding_format='png'),
            'caption': tfds.features.Text(),
        }),
        supervised_keys=('caption', 'image'), license='Apache-2.0')

  def _split_generators(self, dl_manager: tfds.download.DownloadManager):
    del dl_manager  # nothing is downloaded
    return {split: self._generate_examples(split) for split in ('train', 'test')}

  def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, str | np.ndarray]]]:
    config = self.builder_config
    source = ShapesSource(split, config.size, config.seed)
    for index in range({'train': config.train, 'test': config.test}[split]):
      yield index, source[index]


def main(folder: str) -> None:
  """Prepares every shipped config below ``folder``."""
  for config in Shapes.BUILDER_CONFIGS:
    builder = Shapes(config=config, data_dir=folder)
    builder.download_and_prepare()
    print(builder.data_path)


if __name__ == '__main__':
  main(sys.argv[1])
