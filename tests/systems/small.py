"""The smallest models of DuetGen."""


def shrink_duetgen(model):
  """Sets the sizes of the section ``model`` of its config for drawn dialogues."""
  model.mllm.vision.update(width=24, layers=2, heads=2, mlp=32)
  model.mllm.text.update(width=32, layers=2, heads=2, kv_heads=1, mlp=64, rope_sections=(2, 3, 3))
  model.connector.update(width=32, layers=2, out_width=24)
  model.denoiser.update(cond_dim=24, text_dim=24, width=32, heads=2, layers=2, modulation_rank=6)


def shrink_query_kontext(config):
  """Sets sizes of a whole config, without the adapters of its stage."""
  config.model.mllm.vision.update(width=24, layers=2, heads=2, mlp=32)
  config.model.mllm.text.update(width=32, heads=2, kv_heads=1, mlp=64, rope_sections=(2, 3, 3))
  config.model.bridge.width = config.model.connector.width = 32
  config.model.connector.update(hidden=16, out_width=32)
  config.model.denoiser.update(cond_dim=32, width=32, heads=2, layers=2, axes_dims=(4, 6, 6))
  config.model.lora = {}
  config.data.prompt_tokens = 160
  config.optimizer.update(name='adamw', warmup_steps=0)
