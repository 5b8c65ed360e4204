"""Fixtures of several systems."""

import pytest

from tests.data.test_templates import make_tokenizer
from tests.data.test_templates import NAMES
from tests.data.test_templates import QWEN


@pytest.fixture(scope='module')
def chat(tmp_path_factory):
  """``(folder, our tokenizer, theirs)`` with Qwen's chat template and names for images."""
  folder = tmp_path_factory.mktemp('chat')
  return str(folder), *make_tokenizer(folder, NAMES['qwen_chat'], QWEN)
