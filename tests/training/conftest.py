"""One finished run that the tests of this folder share."""

import pytest

from jaxgen.training.loop import train


@pytest.fixture(scope='session')
def straight(tiny_base, tmp_path_factory):
  """Workdir of twenty steps without a break on 8 devices; checkpoints at 10 and 20."""
  workdir = tmp_path_factory.mktemp('runs') / 'straight'
  train(tiny_base, str(workdir))
  return workdir
