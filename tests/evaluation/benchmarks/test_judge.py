"""The judge's client against a real server: retries, many at once, replies on disk, losses."""

import json
import time

import numpy as np
import pytest

from jaxgen.core.errors import UserError
from jaxgen.core.image_files import to_png
from jaxgen.evaluation.benchmarks.base import Question
from jaxgen.evaluation.benchmarks.base import Unreadable
from jaxgen.evaluation.benchmarks.scoring import read
from jaxgen.evaluation.judge import Call
from jaxgen.evaluation.judge import Judge
from jaxgen.evaluation.judge import Reply
from jaxgen.evaluation.rubrics import read_rubric
from jaxgen.evaluation.rubrics import Rubric


def call(text, item='x', **more):
  return Call(item, 'score', 'hash', [('user', text)], **more)


def lines(file):
  return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_fails_and_what_is_answered_in_the_end(endpoint, key, tmp_path):
  """A server that is out of order twice or busy once; bodies that are none, torn or empty."""
  judge = Judge('judge', tmp_path / 'judge.jsonl', url=endpoint.url, tries=3, timeout=5)
  texts = ['fine', '[fails 2]', '[busy]', '[malformed once]', '[fails 9]', '[malformed]', '[torn]',
           '[empty]', '[cut]']
  replies = judge.ask([call(text, text) for text in texts])
  assert [reply.text for reply in replies] == ['Score: 1'] * 4 + [None] * 4 + ['Score: 1']
  assert [reply.cut for reply in replies] == [False] * 8 + [True]
  assert all(reply.error for reply in replies[4:8])
  assert replies[0].tokens == (10, 3) and replies[0].date[:2] == '20'
  written = {line['item']: line for line in lines(tmp_path / 'judge.jsonl')}
  assert written.keys() == set(texts)
  assert written['fine']['served'] == 'judge-1' and written['fine']['rubric'] == 'hash'
  asked = endpoint.stats()['calls']
  again = judge.ask([call(text, text) for text in ('fine', '[fails 2]', '[cut]')])
  assert [reply.text for reply in again] == ['Score: 1'] * 3
  assert endpoint.stats()['calls'] == asked  # all from disk
  judge.ask([call('[fails 9]', '[fails 9]')])  # what failed is tried again
  assert endpoint.stats()['calls'] > asked


def test_many_at_once_but_no_more_than_asked_for(endpoint, key, tmp_path):
  judge = Judge('judge', tmp_path / 'judge.jsonl', url=endpoint.url, concurrency=8)
  began = time.monotonic()
  judge.ask([call('[slow 0.2]', str(number)) for number in range(24)])
  assert time.monotonic() - began < 24 * 0.2
  assert 4 < endpoint.stats()['most'] <= 8


def test_a_judge_that_takes_too_long_is_missing(endpoint, key, tmp_path):
  """The endpoint goes on with the call, and counts it as one of the most at once."""
  judge = Judge('judge', tmp_path / 'judge.jsonl', url=endpoint.url, tries=1, timeout=0.05)
  reply, = judge.ask([call('[slow 0.2]')])
  assert reply.text is None and 'Timeout' in reply.error


def test_scoring_goes_on_and_is_repeated_without_a_network(endpoint, key, tmp_path):
  file = tmp_path / 'judge.jsonl'
  judge = Judge('judge', file, url=endpoint.url)
  judge.ask([call('a', 'a')])
  with file.open('a') as stream:
    stream.write('{"item": "b", "questi')  # a killed process
  judge.ask([call('a', 'a'), call('b', 'b')])
  assert [json.loads(line)['item'] for line in file.read_text().splitlines() if line[-1] == '}'
          ] == ['a', 'b']
  offline = Judge('judge', file, replay=True)
  assert [reply.text for reply in offline.ask([call('', 'a'), call('', 'b'), call('', 'c')])
          ] == ['Score: 1', 'Score: 1', None]
  assert Judge('other', file, replay=True).ask([call('', 'a')])[0].error == 'not on disk'


def test_another_image_is_another_question(endpoint, key, tmp_path):
  image = tmp_path / 'image.png'
  judge = Judge('judge', tmp_path / 'judge.jsonl', url=endpoint.url)
  for level, calls in ((0, 1), (0, 1), (9, 2)):
    image.write_bytes(to_png(np.full((8, 8, 3), level, np.uint8)))
    judge.ask([call('look', 'look', images=[str(image), (str(image), (0, 0, 0.5, 1))], side=4)])
    assert len(lines(tmp_path / 'judge.jsonl')) == calls
  content = json.loads(endpoint.stats()['bodies'][-1]['messages'][-1]['content'])
  assert [part['type'] for part in content] == ['text', 'image_url', 'image_url']
  with pytest.raises(UserError, match='none.png: no such image; draw it first'):
    judge.ask([call('look', images=['none.png'])])


def test_probabilities_of_the_first_token(endpoint, key, tmp_path):
  judge = Judge('judge', tmp_path / 'judge.jsonl', url=endpoint.url)
  reply, = judge.ask([call('Is it?', words=True)])
  assert reply.probabilities == pytest.approx({'Yes': 0.5, ' yes': 0.125, 'No': 0.3678794})
  body = endpoint.stats()['bodies'][-1]
  assert body['max_tokens'] == 1 and body['logprobs'] and body['temperature'] == 0


def test_options_of_the_call(endpoint, key, tmp_path):
  judge = Judge('judge', tmp_path / 'judge.jsonl', url=endpoint.url,
                options=dict(temperature=1, extra_body=dict(thinking=False)))
  judge.ask([call('a')])
  body = endpoint.stats()['bodies'][-1]
  assert body['temperature'] == 1 and body['thinking'] is False


def test_a_refused_key_ends_it_in_one_line(endpoint, monkeypatch, tmp_path):
  monkeypatch.setenv('OPENAI_API_KEY', 'wrong')
  judge = Judge('judge', tmp_path / 'judge.jsonl', url=endpoint.url)
  with pytest.raises(UserError, match="--judge = 'judge': the endpoint refuses: .*no such key"):
    judge.ask([call('a', str(number)) for number in range(40)])
  monkeypatch.delenv('OPENAI_API_KEY')
  with pytest.raises(UserError, match='set OPENAI_API_KEY'):
    Judge('judge', tmp_path / 'judge.jsonl', url=endpoint.url)


def test_a_judge_is_looked_for_before_it_is_needed(endpoint, monkeypatch, tmp_path):
  """By its key, its endpoint and its name; an endpoint without a list of models is taken as it is."""
  def check(model='judge', url=endpoint.url, **more):
    Judge(model, tmp_path / 'judge.jsonl', url=url, **more).check()

  monkeypatch.setenv('OPENAI_API_KEY', 'right')
  check()
  check('other', replay=True)
  check('other', url=endpoint.url + '/elsewhere')
  with pytest.raises(UserError, match="--judge = 'other': the endpoint has judge; name one of its"):
    check('other')
  with pytest.raises(UserError, match='the endpoint cannot be reached .*see --judge-url'):
    check(url='http://127.0.0.1:9/v1', tries=1)
  monkeypatch.setenv('OPENAI_API_KEY', 'wrong')
  with pytest.raises(UserError, match='the endpoint refuses: .*no such key'):
    check()


def test_rubrics_are_files(tmp_path):
  """Ours unless the folder has one; fields in braces or brackets; turns; a hash of the text."""
  ours = read_rubric('gedit_consistency')
  (tmp_path / 'gedit_consistency.txt').write_text(
      'Edit: <instruction>\n--- assistant ---\nYes.\n--- user ---\n{"score": [{instruction}]}')
  theirs = read_rubric('gedit_consistency', str(tmp_path))
  assert ours.digest != theirs.digest
  assert theirs.turns(dict(instruction='a {b} <c>')) == [
      ('user', 'Edit: a {b} <c>'), ('assistant', 'Yes.'), ('user', '{"score": [a {b} <c>]}')]
  assert read_rubric('gedit_quality', str(tmp_path)).digest == read_rubric('gedit_quality').digest
  assert Rubric('x', 'Task.\n--- assistant ---\nI see.').turns({})[-1] == ('user', '')
  role, text = read_rubric('storyboard_identity').turns(dict(instruction='two panels'))[1]
  assert role == 'user' and text.endswith('Editing instruction: two panels')
  with pytest.raises(UserError, match="--rubrics = 'none': no such folder"):
    read_rubric('gedit_quality', 'none')


def test_what_a_reply_scores():
  """Probabilities of all spellings are added; what is cut or not there is not read."""
  asked = Question('0', 'geneval2', {}, (), ('0',), words=('Yes', ' Yes', 'yes'))
  given = Reply('Yes', probabilities={'Yes': 0.5, 'yes': 0.25, 'No': 0.2})
  assert read(asked, given) == {'0': 0.75}
  told = Question('0', 'dpg', {}, (), ('0',), parse=lambda text: {'0': float(text)})
  assert read(told, Reply('3')) == {'0': 3}
  for question, reply, said in ((asked, Reply('Yes'), 'no probabilities'),
                                (told, Reply('1', cut=True), 'cut short'),
                                (told, Reply(None, error='late'), 'late')):
    with pytest.raises(Unreadable, match=said):
      read(question, reply)
