"""Other wordings of a benchmark's prompts: of a file, or written by a language model, and kept."""

import dataclasses
import json
from collections.abc import Sequence

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import write_text
from jaxgen.core.texts import parsed
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.judge import Call
from jaxgen.evaluation.judge import Judge
from jaxgen.evaluation.rubrics import read_rubric
from jaxgen.sampling.jobs import existing_file

FILE, REPLIES = 'prompts.json', 'prompts.jsonl'


def from_file(items: Sequence[Item], file: str) -> list[Item]:
  """The items with the wordings of a file: a JSON object from keys or prompts to texts.

  Raises:
    UserError: no such file, or a prompt without a wording.
  """
  wordings = parsed(existing_file(file, '--prompts-file').read_bytes(),
                    f'--prompts-file = {file!r}')
  if not isinstance(wordings, dict):
    raise user_error('--prompts-file', file, 'must be a JSON object from prompts to texts')
  found = []
  for item in items:
    wording = wordings.get(item.key, wordings.get(item.text))
    if not isinstance(wording, str) or not wording.strip():
      raise user_error('--prompts-file', file, f'has no text for {item.key} ({item.text!r:.60})')
    found.append(dataclasses.replace(item, wording=wording))
  return found


def rewritten(items: Sequence[Item], folder: str, writer: Judge, rubric: str) -> list[Item]:
  """The items as a language model words them; ``prompts.json`` keeps what it wrote.

  Args:
    items: of a benchmark.
    folder: of the results.
    writer: the model.
    rubric: name of the rubric that says what to do, or the path of a file.

  Raises:
    UserError: a prompt that it gave no whole text for.
  """
  path = epath.Path(rubric)
  own = read_rubric(path.stem, str(path.parent)) if path.suffix == '.txt' else read_rubric(rubric)
  replies = writer.ask([Call(item.key, 'prompt', own.digest, own.turns(dict(prompt=item.text)))
                        for item in items])
  found = []
  for item, reply in zip(items, replies, strict=True):
    text = (reply.text or '').strip()
    if not text or reply.cut:
      raise user_error('--rewrite', writer.model, f'gave no whole text for {item.key}: '
                       f'{reply.error or "cut short or empty"}; start again, what is there stays')
    found.append(dataclasses.replace(item, wording=text))
  write_text(epath.Path(folder) / FILE, json.dumps(
      {item.key: dict(prompt=item.text, wording=item.wording) for item in found}, indent=1,
      ensure_ascii=False))
  return found
