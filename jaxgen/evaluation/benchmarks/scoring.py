"""Scores what was drawn: questions to a judge, or the output of a detector, into one table."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxgen.core.files import write_text
from jaxgen.evaluation.benchmarks.base import Benchmark
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.base import Question
from jaxgen.evaluation.benchmarks.base import Scored
from jaxgen.evaluation.benchmarks.base import Scores
from jaxgen.evaluation.benchmarks.base import Unreadable
from jaxgen.evaluation.benchmarks.tallies import scores_of
from jaxgen.evaluation.judge import Call
from jaxgen.evaluation.judge import Judge
from jaxgen.evaluation.judge import Reply
from jaxgen.evaluation.rubrics import read_rubric

REPLIES, RESULT = 'judge.jsonl', 'scores.json'


def judged(benchmark: Benchmark, items: Sequence[Item], folder: str, judge: Judge, *,
           rubrics: str = '', progress: Callable[[int, int], None] = lambda done, total: None
           ) -> Scored:
  """Asks the judge everything about all items.

  Args:
    benchmark, items: that were drawn.
    folder: of the results.
    judge: that is asked.
    rubrics: folder whose files are taken before ours.
    progress: called with (replies, questions).

  Raises:
    UserError: an image is missing, or the endpoint refuses.
  """
  asked = [(item, question) for item in items for question in benchmark.ask(item, folder)]
  known = {name: read_rubric(name, rubrics)
           for name in dict.fromkeys(question.rubric for _, question in asked)}
  calls = [Call(item.key, question.name, known[question.rubric].digest,
                known[question.rubric].turns(question.fields), question.images, question.side,
                bool(question.words)) for item, question in asked]
  replies = judge.ask(calls, progress)
  scores: dict[str, dict[str, float | None]] = {item.key: {} for item in items}
  missing = {}
  for (item, question), reply in zip(asked, replies, strict=True):
    try:
      scores[item.key] |= read(question, reply)
    except Unreadable as error:
      scores[item.key] |= dict.fromkeys(question.scores, None)
      missing[f'{item.key}: {question.name}'] = str(error)
  dates = sorted(reply.date for reply in replies if reply.date)
  served = sorted({reply.served for reply in replies if reply.served})
  by = dict(judge=judge.model, served=served, official_judge=benchmark.judge,
            dates=[*dates[:1], *dates[-1:]], questions=len(calls),
            rubrics={name: rubric.digest for name, rubric in known.items()},
            tokens=[sum(reply.tokens[side] for reply in replies) for side in (0, 1)])
  return Scored([scores[item.key] for item in items], missing, by)


def together(parts: Sequence[Scored]) -> Scored:
  """The scores of several sources for the same items, whose names differ."""
  scores = [{name: value for own in each for name, value in own.items()}
            for each in zip(*(part.scores for part in parts), strict=True)]
  missing = {name: why for part in parts for name, why in part.missing.items()}
  return Scored(scores, missing, {name: value for part in parts for name, value in part.by.items()})


def read(question: Question, reply: Reply) -> Scores:
  """The scores of a reply.

  Raises:
    Unreadable: there is none, it was cut, or it does not say what it should.
  """
  if question.words:
    if reply.probabilities is None:
      raise Unreadable(reply.error or 'no probabilities')
    found = sum(reply.probabilities.get(word, 0.0) for word in question.words)
    return {question.scores[0]: min(found, 1.0)}
  if reply.text is None:
    raise Unreadable(reply.error or 'no text')
  if reply.cut:
    raise Unreadable('cut short')
  return question.parse(reply.text)


def table_of(benchmark: Benchmark, items: Sequence[Item], scored: Scored) -> dict[str, Any]:
  """metric -> ``value``, ``low``, ``high``, ``count`` and ``missing``."""
  return scores_of([(item.group, benchmark.measures(item, scores))
                    for item, scores in zip(items, scored.scores, strict=True)], benchmark.summary)


def write_scores(benchmark: Benchmark, items: Sequence[Item], scored: Scored, folder: str,
                 drawn: Mapping[str, Any]) -> dict[str, Any]:
  """Writes ``scores.json``: the table, what is missing, and the scores of each item.

  Args:
    drawn: how the images were drawn; {} where that is not known.
  """
  record = dict(
      benchmark=benchmark.name, items=len(items), by=scored.by, drawn=dict(drawn),
      table=table_of(benchmark, items, scored), missing=scored.missing, papers={
          system: dict(numbers) for system, numbers in benchmark.papers.items()},
      scores=[dict(item=item.key, group=item.group, text=item.text, wording=item.wording,
                   files=list(item.files), scores=dict(scores))
              for item, scores in zip(items, scored.scores, strict=True)])
  write_text(epath.Path(folder) / RESULT, json.dumps(record, indent=1, ensure_ascii=False))
  return record


def lines_of(record: Mapping[str, Any]) -> list[str]:
  """The table as lines of text; every mean says how many scores it lacks."""
  lines = []
  for name, cell in record['table'].items():
    value = 'none' if cell['value'] is None else f'{cell["value"]:.4g}'
    span = '' if cell['low'] is None else f'  [{cell["low"]:.4g}, {cell["high"]:.4g}]'
    missing = f'  {cell["missing"]} missing' if cell['missing'] else ''
    lines.append(f'{name:32} {value}{span}  of {cell["count"]}{missing}')
  if record['missing']:
    first = next(iter(record['missing'].items()))
    lines.append(f'{len(record["missing"])} replies could not be read, as {first[0]} ({first[1]}); '
                 'their scores are missing from the means')
  return lines
