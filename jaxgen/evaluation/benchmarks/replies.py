"""Reads scores out of what a judge has written; what cannot be read is an error, never a number."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from jaxgen.evaluation.benchmarks.base import Unreadable

_NUMBER = r'(\d+(?:\.\d+)?)(?!\s*[-–]\s*\d)(?![\d.]*\d)'  # not the range 0-2 of a repeated rubric


def labelled(reply: str, labels: Mapping[str, str], least: float, most: float) -> dict[str, float]:
  """Scores in lines ``Label: number``.

  Args:
    reply: of the judge; labels may be bold, and ``/most`` may follow the number.
    labels: name of a score -> its label, in any case.
    least, most: what a score may be.

  Raises:
    Unreadable: a label without a number, with two different ones, or one out of range.
  """
  found = {}
  for name, label in labels.items():
    pattern = rf'(?<!\w){re.escape(label)}[*_"\s]*[:=][*_"\s]*{_NUMBER}'
    values = {float(value) for value in re.findall(pattern, reply, re.IGNORECASE)}
    if len(values) != 1:
      raise Unreadable(f'{len(values)} numbers after {label!r}')
    found[name] = _within(values.pop(), least, most)
  return found


def bare_digits(reply: str, names: Sequence[str], least: float, most: float) -> dict[str, float]:
  """Scores of a reply that is nothing but as many numbers.

  Raises:
    Unreadable: it is anything else.
  """
  values = reply.replace(',', ' ').split()
  if len(values) != len(names) or not all(re.fullmatch(r'\d+', value) for value in values):
    raise Unreadable('not as many bare numbers')
  return {name: _within(float(value), least, most) for name, value in zip(names, values)}


def last_score(reply: str, label: str, least: float, most: float) -> float:
  """The number after the label, of the last time that it stands in the reply.

  Raises:
    Unreadable: there is none, or it is out of range.
  """
  values = re.findall(rf'{re.escape(label)}s?[*_"\s]*[:=]?[*_"\s]*{_NUMBER}', reply,
                      re.IGNORECASE)
  if not values:
    raise Unreadable(f'no number after {label!r}')
  return _within(float(values[-1]), least, most)


def json_in(reply: str) -> Any:
  """The JSON object that stands in a reply, with or without words and fences around it.

  Raises:
    Unreadable: there is none, or it is cut short.
  """
  start, end = reply.find('{'), reply.rfind('}')
  if start < 0 or end < start:
    raise Unreadable('no JSON object')
  try:
    return json.loads(reply[start:end + 1])
  except (ValueError, RecursionError) as error:
    raise Unreadable(f'no JSON: {error}') from None


def score_list(reply: str, names: Sequence[str], least: float, most: float) -> dict[str, float]:
  """Scores of ``{"score": [a, b], "reasoning": ..}``, of a list alone, or of one bare number.

  Raises:
    Unreadable: not as many numbers as names, or one out of range.
  """
  bare = re.fullmatch(r'\s*\[([\d.,\s]+)\]\s*', reply)
  value = ([float(text) for text in bare[1].split(',') if _is_number(text)] if bare else
           dictionary(json_in(reply)).get('score'))
  values = value if isinstance(value, list) else [value]
  if len(values) != len(names):
    raise Unreadable(f'{len(values)} scores in place of {len(names)}')
  return {name: number(value, least, most) for name, value in zip(names, values)}


def dictionary(value: Any) -> dict[str, Any]:
  """The value, which must be a JSON object.

  Raises:
    Unreadable: it is not.
  """
  if not isinstance(value, dict):
    raise Unreadable('no JSON object')
  return value


def number(value: Any, least: float, most: float) -> float:
  """A score of a JSON object; a number within quotes is one, too.

  Raises:
    Unreadable: it is no number, or out of range.
  """
  if isinstance(value, str) and _is_number(value):
    value = float(value)
  if isinstance(value, bool) or not isinstance(value, int | float):
    raise Unreadable(f'{value!r:.40} is no number')
  return _within(float(value), least, most)


def yes_or_no(reply: str) -> float:
  """1 for a reply that begins with yes, 0 for no.

  Raises:
    Unreadable: it begins with anything else.
  """
  word = re.match(r'\W*(yes|no)\b', reply, re.IGNORECASE)
  if not word:
    raise Unreadable('neither yes nor no')
  return float(word[1].lower() == 'yes')


def verdict(reply: str) -> str:
  """``A``, ``B``, ``Tie(A)`` or ``Tie(B)`` of "A is better", "Tie(B better)", ... (OpenING).

  Raises:
    Unreadable: none of them, or two different ones.
  """
  ties = set(re.findall(r'\btie\s*\(\s*([AB])\b', reply, re.IGNORECASE))
  wins = set(re.findall(r'\b([AB]) is better', reply, re.IGNORECASE))
  found = {f'Tie({name.upper()})' for name in ties} | {name.upper() for name in wins}
  if len(found) != 1:
    raise Unreadable(f'{len(found)} verdicts')
  return found.pop()


def _is_number(text: str) -> bool:
  return bool(re.fullmatch(r'\s*\d+(\.\d+)?\s*', text))


def _within(value: float, least: float, most: float) -> float:
  if not least <= value <= most:
    raise Unreadable(f'{value:g} is not from {least:g} to {most:g}')
  return value
