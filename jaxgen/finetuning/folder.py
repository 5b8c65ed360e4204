"""What a user's images are: read through before anything is computed; errors list the names."""

import collections
import dataclasses
import math
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence

from ml_collections import ConfigDict

from jaxgen.core.errors import RecordError
from jaxgen.core.errors import user_error
from jaxgen.data import tasks
from jaxgen.data.commands import Progress
from jaxgen.data.decode import DecodeError
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.sample import Sample
from jaxgen.data.sample import draw_variant
from jaxgen.data.sources import ControlSource
from jaxgen.data.sources import FolderSource
from jaxgen.data.sources import Place
from jaxgen.data.sources import Source
from jaxgen.data.sources import open_source
from jaxgen.data.sources.base import shortened
from jaxgen.data.sources.layouts import recognised
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import as_request
from jaxgen.sampling.request import request_of
from jaxgen.systems.base import System

FIELD = '--data'
SHOWN = 2  # samples whose requests validate a run


@dataclasses.dataclass(frozen=True)
class Survey:
  """What a folder holds.

  Attributes:
    layout: kind of the source and the convention that was recognised, in words.
    tasks: task -> samples.
    sizes: (height, width) of a target after fitting -> targets.
    tokens: latent tokens of the largest sample, given images and learned pads included.
    words: of the longest caption.
    requests: the first samples without their targets.
  """

  layout: str
  tasks: collections.Counter[str]
  sizes: collections.Counter[tuple[int, int]]
  tokens: int
  words: int
  requests: list[Request]

  def lines(self) -> list[str]:
    """The survey in words."""
    sizes = ', '.join(f'{height}x{width} ({count})'
                      for (height, width), count in sorted(self.sizes.items()))
    kinds = ', '.join(f'{count} {task}' for task, count in self.tasks.most_common())
    return [f'data: {self.layout}; samples: {kinds}; the longest caption has {self.words} words',
            f'sizes of the targets: {sizes} px; a row holds {self.tokens} latent tokens']


def survey(path: str, config: ConfigDict, system: System) -> Survey:
  """Reads the captions and the headers of all images.

  Args:
    path: of the data.
    config: of the run; its sizes count, and its row capacity does not.
    system: of the run.

  Raises:
    UserError: nothing known at the path; images without captions, captions without images, images
      that cannot be read, or given images for a model that takes none. All of them are listed.
  """
  source = open_source('auto', path, field=FIELD)
  _check_unused(source, path)
  maker = ExampleMaker.of(config, system.layout)
  kinds, sizes, tokens, words = collections.Counter(), collections.Counter(), 0, 0
  requests, problems = [], {name: [] for name in ('silent', 'broken', 'given')}
  for sample in _samples(source, problems['broken']):
    text = ' '.join(part.text for part in sample.texts)
    if not text.strip():
      problems['silent'].append(sample.id)
      continue
    task = tasks.kind_of(sample)
    if task != 'pair' and not config.data.clean_roles:
      problems['given'].append(sample.id)
      continue
    worded = tasks.worded(sample, task, config.data)
    try:
      plans = maker.to_encode(worded)
    except (DecodeError, RecordError) as error:
      problems['broken'].append(f'{sample.id} ({error})')
      continue
    targets = [plan.size for part, plan in plans if part.is_target]
    kinds[task] += 1
    sizes.update(targets)
    words = max(words, len(text.split()))
    area = sum(height * width for height, width in (plan.size for _, plan in plans))
    latent = system.layout.latent
    tokens = max(tokens, math.ceil(area / latent.factor**2 / latent.multiple) * latent.multiple)
    if len(requests) < SHOWN:
      requests.append(request_of(config, as_request(worded, targets), seed=0,
                                 number=len(requests)))
  _check(problems, path, len(source), config)
  return Survey(recognised(Place(path, field=FIELD)), kinds, sizes, tokens, words, requests)


def _samples(source: Source, broken: list[str]) -> Iterator[Sample]:
  progress = Progress('read')
  for index in range(len(source)):
    progress(index + 1, len(source))
    try:
      yield draw_variant(source[index], 0)
    except RecordError as error:
      broken.append(str(error))


def _check_unused(source: Source, path: str) -> None:
  if isinstance(source, (FolderSource, ControlSource)) and source.unused:
    raise user_error(FIELD, path, f'{len(source.unused)} captions without an image: '
                     f'{shortened(sorted(source.unused))}; add the images or remove the captions')


def _check(problems: Mapping[str, Sequence[str]], path: str, count: int, config: ConfigDict
           ) -> None:
  """Raises the error for the first kind of problem that there is."""
  texts = {
      'broken': 'samples that cannot be read: {}; mend or remove them',
      'silent': 'samples without a caption: {}; write the caption of name.jpg into name.txt '
                'beside it',
      'given': 'samples with given images: {}; ' + f'the system {config.system} of this base takes '
               'words alone, so use a base that edits'}
  for kind, text in texts.items():
    if names := problems[kind]:
      raise user_error(FIELD, path, f'{len(names)} of {count} {text.format(shortened(names))}')
