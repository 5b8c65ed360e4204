"""Weights of other shapes: everything is accounted for."""

import numpy as np
import pytest

from jaxgen.checkpoints.adopt import adopt
from jaxgen.checkpoints.adopt import check_used
from jaxgen.checkpoints.adopt import describe
from jaxgen.core.errors import UserError

FOUND = {'g': {'same': np.ones((2, 3)), 'rows': np.ones((4, 3)), 'other': np.ones((2, 5)),
               'old': np.ones(1)}}
WANTED = {'g': {'same': np.zeros((2, 3)), 'rows': np.zeros((6, 3)), 'other': np.zeros((2, 4)),
                'new': np.zeros(2)}}
CHANGES = (('g/rows', 'extend'), ('g/(other|new)', 'reinit'), ('g/old', 'drop'))


def test_every_kind_is_reported():
  tree, report = adopt(FOUND, WANTED, CHANGES, 'somewhere')
  assert report == {'loaded': ['g/same'], 'extended': ['g/rows'],
                    'reinitialised': ['g/new', 'g/other'], 'dropped': ['g/old']}
  assert tree == {'g': {'same': FOUND['g']['same'], 'rows': FOUND['g']['rows']}}
  assert describe(report) == (
      '1 loaded; 1 extended: g/rows; 2 reinitialised: g/new, g/other; 1 dropped: g/old')
  assert describe(adopt(FOUND, FOUND, (), 'somewhere')[1]) == ''


@pytest.mark.parametrize('changes, text', [
    ((), '1 missing: g/new; 1 unknown: g/old; 2 misshapen: g/other (2, 5) (needs (2, 4)), g/rows'),
    ((('.*', 'reinit'),), '1 unknown: g/old'),
    ((('g/(rows|old)', 'drop'), ('.*', 'reinit')), '1 misshapen: g/rows'),
    ((('g/old', 'drop'), ('.*', 'extend')), '1 missing: g/new; 1 misshapen: g/other'),
])
def test_what_is_not_named_is_an_error(changes, text):
  with pytest.raises(UserError) as caught:
    adopt(FOUND, WANTED, changes, 'somewhere')
  assert str(caught.value).startswith('somewhere: ') and text in str(caught.value)


def test_unused_changes():
  check_used(['g/rows'], CHANGES[:1])
  with pytest.raises(UserError, match=r"config.init_from.changes = 'g/\(other\|new\)'"):
    check_used(['g/rows'], CHANGES)
