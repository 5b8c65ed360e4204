"""config.json in the spellings of any version of transformers, read as transformers does."""

import json

import pytest
import transformers

from jaxgen.conversion import load_pretrained
from jaxgen.conversion.families import TABLES
from jaxgen.core.errors import UserError
from jaxgen.models import registry

LM = dict(vocab_size=11, hidden_size=16, intermediate_size=20, num_hidden_layers=2,
          num_attention_heads=4)
LLAMA_3_1 = dict(factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                 original_max_position_embeddings=16)
QWEN_VL = dict(vision_config=dict(depth=2, hidden_size=8, intermediate_size=12, num_heads=2))


def section(family, **theirs):
  return registry.section(**TABLES[family].read_config(
      dict(theirs, model_type=family), {'lm_head.weight'}, 'config.json'))


def test_absent_fields_are_those_of_the_class():
  llama, qwen = section('llama', **LM), section('qwen3', **LM, num_key_value_heads=None)
  assert (llama['kv_heads'], llama['rope_theta']) == (4, 1e4)
  assert (qwen['kv_heads'], qwen['head_channels'], qwen['norm_eps']) == (4, 128, 1e-6)
  assert section('llama') == section('llama', **transformers.LlamaConfig().to_dict())
  clip = TABLES['clip_text'].read_config(dict(model_type='clip_text_model'), (), 'x')
  assert (clip['width'], clip['activation'], clip['eos_id']) == (512, 'quick_gelu', 49407)


@pytest.mark.parametrize('old, new', [
    (dict(rope_theta=5e5), dict(rope_parameters=dict(rope_type='default', rope_theta=5e5))),
    (dict(rope_theta=5e5, rope_scaling=dict(type='llama3', **LLAMA_3_1)),
     dict(rope_parameters=dict(rope_type='llama3', rope_theta=5e5, **LLAMA_3_1))),
    # A factor that the type of rope does not read.
    (dict(rope_scaling=dict(rope_type='default', factor=4.0)), dict(rope_scaling=None))])
def test_old_spellings_mean_the_same(old, new):
  assert section('llama', **LM, **old) == section('llama', **LM, **new)


YARN = dict(factor=4.0, original_max_position_embeddings=64)
SLIDING = dict(use_sliding_window=True, sliding_window=4, max_window_layers=1)


@pytest.mark.parametrize('family, fields, text', [
    ('qwen3', dict(rope_scaling=dict(rope_type='yarn', **YARN)), "rope_type = 'yarn'"),
    ('qwen3', dict(rope_scaling=dict(type='yarn', **YARN)), "rope_type = 'yarn'"),
    ('llama', dict(rope_scaling=dict(type='linear', factor=2.0)), "rope_type = 'linear'"),
    ('llama', dict(rope_scaling=dict(type='dynamic', factor=2.0)), "rope_type = 'dynamic'"),
    ('qwen2_5_vl', QWEN_VL | dict(rope_scaling=dict(
        type='yarn', mrope_section=[1, 1, 0], **YARN)), "rope_type = 'yarn'"),
    ('internvl', dict(text_config=LM | dict(
        model_type='qwen2', rope_scaling=dict(type='linear', factor=2.0))),
     "rope_type = 'linear'"),
    ('qwen3', SLIDING, r"layer_types = \['full_attention', 'sliding_attention'\]"),
    ('internvl', dict(text_config=LM | SLIDING | dict(model_type='qwen2')), 'layer_types'),
    ('llama', dict(attention_bias=True), 'attention_bias = True'),
    ('llama', dict(mlp_bias=True), 'mlp_bias = True'),
    ('internvl', dict(vision_config=dict(image_size=[448, 224])), 'supports squares only'),
    ('llama', dict(rope_scaling='yarn'), 'is no config that LlamaConfig of transformers takes'),
    ('llama', dict(hidden_size='wide'), 'is no config that LlamaConfig of transformers takes'),
    ('llama', dict(num_attention_heads=5), 'is no config that LlamaConfig of transformers takes'),
])
def test_what_the_model_cannot_do_is_refused(family, fields, text):
  with pytest.raises(UserError, match=text) as caught:
    section(family, **LM | fields)
  assert '\n' not in str(caught.value)


def test_windows_that_no_layer_has_make_no_difference():
  fields = LM | dict(num_key_value_heads=2)
  assert section('qwen3', **fields, **SLIDING | dict(max_window_layers=2)) == section(
      'qwen3', **fields)


@pytest.mark.parametrize('tied', [True, False])
def test_an_index_may_list_a_tied_head(tmp_path, tied):
  """Files made by tools that list every name of the model, while the head is not stored."""
  model = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(
      **LM, num_key_value_heads=2, head_dim=6, tie_word_embeddings=True))
  model.save_pretrained(tmp_path, max_shard_size=4000)
  file = tmp_path / 'model.safetensors.index.json'
  index = json.loads(file.read_text())
  index['weight_map']['lm_head.weight'] = next(iter(index['weight_map'].values()))
  file.write_text(json.dumps(index))
  config = json.loads((tmp_path / 'config.json').read_text())
  (tmp_path / 'config.json').write_text(json.dumps(config | dict(tie_word_embeddings=tied)))
  if tied:
    assert load_pretrained(str(tmp_path))[0].config.tie_embeddings
  else:
    with pytest.raises(UserError, match='names 1 tensors that its files lack: lm_head.weight'):
      load_pretrained(str(tmp_path))
