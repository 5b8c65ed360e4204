"""Goodput: steps that count, over the wall time of all starts."""

import json

import pytest
from etils import epath

from jaxgen.operations.goodput import Goodput
from jaxgen.operations.goodput import wall_time


def line(step, seconds=1.0, loss=0.5):
  return dict(step=step, seconds=seconds, loss=loss)


def test_steps_that_were_lost_or_skipped_are_not_useful(tmp_path):
  workdir = epath.Path(tmp_path)
  first = Goodput(workdir, 100.0, 0, [])
  for step in range(1, 9):
    first.add(line(step))
  assert first.share(110.0) == pytest.approx(0.8)
  # Killed at step 8, of which a checkpoint has 5: three steps are done again.
  again = Goodput(workdir, 120.0, 5, [line(step) for step in range(1, 6)])
  assert again.share(125.0) == pytest.approx(5 / 25)
  again.add(line(6, seconds=4.0))
  again.add(line(7, seconds=1.0, loss=None))
  assert again.share(130.0) == pytest.approx(9 / 30)


@pytest.mark.parametrize('again, now', [(90.0, 95.0), (50.0, 51.0), (105.0, 90.0)])
def test_a_clock_that_was_set_back_gives_a_share_all_the_same(tmp_path, again, now):
  workdir = epath.Path(tmp_path)
  first = Goodput(workdir, 100.0, 0, [])
  first.add(line(1, seconds=4.0))
  second = Goodput(workdir, again, 1, [line(1, seconds=4.0)])
  second.add(line(2, seconds=2.0))
  assert 0.5 < second.share(now) <= 1


def test_damaged_lines_are_left_out(tmp_path, capsys):
  (tmp_path / 'starts.jsonl').write_text('{"time": 100.0, "step": 0}\n{"time": "x"}\n[]\n{"ti')
  assert Goodput(epath.Path(tmp_path), 110.0, 0, [line(1)]).share(120.0) == pytest.approx(1 / 20)
  assert 'starts.jsonl: 2 damaged lines are left out' in capsys.readouterr().err


def test_time_after_the_end_does_not_count(tmp_path):
  workdir = epath.Path(tmp_path)
  first = Goodput(workdir, 100.0, 0, [])
  first.add(line(1, seconds=5.0))
  first.done(110.0, 1)
  more = Goodput(workdir, 5000.0, 1, [line(1, seconds=5.0)])
  more.add(line(2, seconds=10.0))
  assert more.share(5020.0) == pytest.approx(15 / 30)
  events = [json.loads(text) for text in (tmp_path / 'starts.jsonl').read_text().splitlines()]
  assert events == [dict(time=100.0, step=0), dict(time=110.0, step=1, done=True),
                    dict(time=5000.0, step=1)]
  assert wall_time(events[:2], 9000.0) == 10.0


def test_of_steps_before_starts_were_noted_nothing_is_known(tmp_path):
  goodput = Goodput(epath.Path(tmp_path), 100.0, 7, [line(step) for step in range(1, 8)])
  goodput.add(line(8, seconds=3.0))
  assert goodput.share(104.0) == pytest.approx(0.75)
