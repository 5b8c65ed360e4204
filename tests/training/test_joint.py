"""Cross entropy and velocities in one run: means of their own over the batch of all processes."""

import numpy as np
import pytest

from jaxgen.training.loop import train
from tests.systems.test_duetgen import small
from tests.training.launched import finish
from tests.training.launched import metrics_of


@pytest.mark.slow
def test_both_losses_of_two_processes_equal_those_of_one(launcher, tiny_tokenizer, tmp_path):
  """Rows hold other shares of words and images, so a mean of means would differ (F25)."""
  config = small(tiny_tokenizer, buckets='', prompt_tokens=400, patches=160, visual_tokens=96)
  config.optimizer.update(name='adamw', warmup_steps=0)
  config.train.update(rows=8, steps=2, checkpoint_every=2, log_every=1)
  codes, errors = finish(launcher.start_all([config, config], tmp_path / 'pair', devices=4))
  assert codes == [0, 0], errors
  assert train(config, str(tmp_path / 'alone'))
  names = ('loss', 'grad_norm', 'next_token/token_accuracy', 'sample_ids')
  ours, theirs = (metrics_of(tmp_path / name, *names) for name in ('pair', 'alone'))
  assert len(ours) == len(theirs) == 2
  for pair, alone in zip(ours, theirs, strict=True):
    assert pair['sample_ids'] == alone['sample_ids']
    for name in names[:3]:
      np.testing.assert_allclose(pair[name], alone[name], rtol=2e-5, err_msg=name)
  assert 0 <= alone['next_token/token_accuracy'] <= 1
