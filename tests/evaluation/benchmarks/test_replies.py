"""Parsers of judges' replies: what is said is read, and nothing is made up."""

import pytest

from jaxgen.evaluation.benchmarks import replies
from jaxgen.evaluation.benchmarks.base import Unreadable

WISE = dict(consistency='Consistency', aesthetic='Aesthetic Quality')


@pytest.mark.parametrize('reply', [
    'Consistency: 2\nAesthetic Quality: 1', '**Consistency**: 2\n**Aesthetic Quality:** 1',
    'Sure!\n- Consistency: 2/2\n- aesthetic quality = 1.\n', 'Consistency: 2, Aesthetic Quality: 1',
    'Consistency: 0-2 is the range.\nConsistency: 2\nAesthetic Quality: 1'])
def test_labelled(reply):
  assert replies.labelled(reply, WISE, 0, 2) == dict(consistency=2, aesthetic=1)


@pytest.mark.parametrize('reply', [
    '', 'Consistency: 2', 'Consistency: two\nAesthetic Quality: 1',
    'Consistency: 3\nAesthetic Quality: 1', 'Consistency: 2\nConsistency: 1\nAesthetic Quality: 1',
    'Consistency: 20\nAesthetic Quality: 1', 'Inconsistency: 2\nAesthetic Quality: 1',
    'Consistency: 0-2\nAesthetic Quality: 1', 'I cannot help with that.'])
def test_unreadable_labels(reply):
  with pytest.raises(Unreadable):
    replies.labelled(reply, WISE, 0, 2)


def test_bare_digits():
  assert replies.bare_digits('2\n1', ['a', 'b'], 0, 2) == dict(a=2, b=1)
  assert replies.bare_digits('2, 1', ['a', 'b'], 0, 2) == dict(a=2, b=1)
  for reply in ('2', '2 1 0', '2 three', '2 -1', 'scores 2 1'):
    with pytest.raises(Unreadable):
      replies.bare_digits(reply, ['a', 'b'], 0, 2)


@pytest.mark.parametrize('reply', [
    '{"score": [7, 8], "reasoning": "ok"}', '```json\n{"score": ["7", 8.0]}\n```', '[7, 8]',
    'Here: {"score": [7, 8], "reasoning": "brackets [1] and\\n lines"} Done.'])
def test_score_list(reply):
  assert replies.score_list(reply, ('a', 'b'), 0, 10) == dict(a=7, b=8)


@pytest.mark.parametrize('reply', [
    '{"score": [7], "reasoning": "ok"}', '{"score": [7, 11]}', '{"score": [7, true]}',
    '{"score": [7, null]}', '{"score": [7, 8', '{"reasoning": "no score"}', '7 and 8', '[7, 8, 9]',
    '{"score": {"a": 7}}', '["seven", 8]', '{"score": [7, "eight"]}', ''])
def test_unreadable_lists(reply):
  with pytest.raises(Unreadable):
    replies.score_list(reply, ('a', 'b'), 0, 10)


def test_one_score():
  assert replies.score_list('{"score": 9, "reasoning": ""}', ('a',), 0, 10) == dict(a=9)
  assert replies.last_score('It is 5 of 5. **Final Score:** 4', 'Final Score', 1, 5) == 4
  assert replies.last_score('Final Score: 2 ... no. Final Score: 3', 'Final Score', 1, 5) == 3
  for reply in ('Final Score: high', 'Final Score: 7', 'It is 4'):
    with pytest.raises(Unreadable):
      replies.last_score(reply, 'Final Score', 1, 5)


def test_yes_no_and_verdicts():
  assert replies.yes_or_no('Yes.') == 1 and replies.yes_or_no(' no, it is not') == 0
  for reply in ('maybe', 'not sure', 'It is; yes'):
    with pytest.raises(Unreadable):
      replies.yes_or_no(reply)
  assert replies.verdict('A is better') == 'A'
  assert replies.verdict('Tie(B is slightly better)') == 'Tie(B)'
  assert replies.verdict('I think that b is better.') == 'B'
  for reply in ('A is better, B is better', 'tie', 'neither'):
    with pytest.raises(Unreadable):
      replies.verdict(reply)
