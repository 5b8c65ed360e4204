"""What a benchmark is: items to draw, questions to a judge, measures of an item, a summary."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxgen.data.sample import FileImage
from jaxgen.evaluation.benchmarks.files import Data
from jaxgen.evaluation.benchmarks.tallies import Measures
from jaxgen.evaluation.benchmarks.tallies import Summary
from jaxgen.evaluation.benchmarks.tallies import tally
from jaxgen.evaluation.judge import Box

Scores = Mapping[str, float | None]  # None is a score that could not be read


@dataclasses.dataclass(frozen=True)
class Item:
  """One prompt of a benchmark, with the files that its images go to.

  Attributes:
    key: name of the item within the benchmark, as its authors number it.
    group: what its scores are averaged by.
    text: the prompt or instruction.
    files: paths below the results, in the order in which images are drawn.
    source, reference: images given to the model, by role.
    outputs: images drawn in one pass; an item with more files is drawn several times.
    grid: the four images of the item stand in a 2x2 grid in its one file.
    beside: further files that the official scorer reads: path -> text, or an image to copy.
    facts: what the scores need to know of it.
    wording: what is drawn in place of ``text``, where the prompts were rewritten.
  """

  key: str
  group: str
  text: str
  files: tuple[str, ...]
  source: tuple[FileImage, ...] = ()
  reference: tuple[FileImage, ...] = ()
  outputs: int = 1
  grid: bool = False
  beside: Mapping[str, str | FileImage] = dataclasses.field(default_factory=dict)
  facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  wording: str = ''

  @property
  def draws(self) -> int:
    """How many times the item is drawn."""
    return 4 if self.grid else len(self.files) // self.outputs


@dataclasses.dataclass(frozen=True)
class Question:
  """One call of the judge.

  Attributes:
    name: of the question within its item.
    rubric: name of the file that words it.
    fields: what stands in the places of the rubric that are named ``{field}``.
    images: paths, or (path, box) for a part of an image.
    scores: names of what is read from the reply; all are missing where it cannot be read.
    parse: reply -> scores; raises ``Unreadable``.
    side: pixels of the longer side of an image at the most; 0 is as it is.
    words: the answers whose probability of being the next token is the score, in place of
      ``parse``.
  """

  name: str
  rubric: str
  fields: Mapping[str, str]
  images: tuple[str | tuple[str, Box], ...]
  scores: tuple[str, ...]
  parse: Callable[[str], Scores] | None = None
  side: int = 0
  words: tuple[str, ...] = ()


class Unreadable(ValueError):
  """A reply that does not say what it was asked for."""


@dataclasses.dataclass(frozen=True)
class Scored:
  """The scores of all items, and how they came about.

  Attributes:
    scores: of each item, in their order.
    missing: names of the scores or questions that could not be read: why.
    by: what gave the scores: judge, rubrics, dates, tokens.
  """

  scores: list[Scores]
  missing: dict[str, str]
  by: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Benchmark:
  """One published benchmark.

  Attributes:
    name: as ``--benchmark`` gives it; variants whose scores must not be mixed have names of their
      own.
    read: its files -> items.
    measures: (item, scores) -> the measures that are pooled.
    summary: pooled measures -> the table that its authors publish.
    ask: (item, folder of the results) -> questions to the judge; None where something else gives
      the scores.
    judge: what the authors score with.
    scores: what gives the scores where no judge does: ``detections`` or ``embeddings``.
    embed: (items, folder of the results, towers, masks) -> scores that are cosines of features,
      see ``embeddings``; None has none. Their names do not meet those of the judge.
    masked: these features are of foregrounds, if ``--masks`` finds them.
    index: (items, folder of the results) -> files that the official scorer reads besides.
    dialogue: the model itself decides when it draws.
    papers: system -> metric -> the number that its paper prints.
  """

  name: str
  read: Callable[[Data], list[Item]]
  measures: Callable[[Item, Scores], Measures]
  summary: Summary
  judge: str
  ask: Callable[[Item, str], Sequence[Question]] | None = None
  scores: str = 'judge'
  embed: Callable[[Sequence[Item], str, Mapping[str, str], str], Scored] | None = None
  masked: bool = False
  index: Callable[[Sequence[Item], str], Mapping[str, str]] | None = None
  dialogue: bool = False
  papers: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)


def pick(scores: Scores, *names: str) -> list[float] | None:
  """The scores with these names; None if one of them is missing."""
  found = [scores[name] for name in names]
  return None if any(score is None for score in found) else found


def each(item: Item, scores: Scores) -> Measures:
  """Each score of an item is a measure of its own."""
  del item
  return {name: tally(value) for name, value in scores.items()}
