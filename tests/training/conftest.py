"""One finished run that the tests of this folder share, and processes of their own."""

import pytest

from jaxgen.training.loop import train
from tests.training.launched import Launcher


@pytest.fixture(scope='session')
def straight(tiny_base, tmp_path_factory):
  """Workdir of twenty steps without a break on 8 devices; checkpoints at 10 and 20, a trace."""
  workdir = tmp_path_factory.mktemp('runs') / 'straight'
  train(tiny_base, str(workdir), profile=(12, 13))
  return workdir


@pytest.fixture
def launcher():
  """Starts processes that the test does not outlive."""
  launcher = Launcher()
  yield launcher
  launcher.close()
