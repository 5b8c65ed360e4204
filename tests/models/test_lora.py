"""LoRA against peft on the same tiny model, merged and not, and its files out and in."""

import functools

import diffusers
import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import pytest
import torch
import transformers

from jaxgen.conversion.engine import from_torch
from jaxgen.conversion.engine import names_and_shapes
from jaxgen.conversion.engine import to_torch
from jaxgen.conversion.folders import load_folder
from jaxgen.conversion.lora import from_theirs
from jaxgen.conversion.lora import linear_modules
from jaxgen.conversion.lora import to_theirs
from jaxgen.conversion.lora_files import COMFYUI
from jaxgen.conversion.lora_files import find
from jaxgen.conversion.lora_files import named
from jaxgen.conversion.lora_files import save_peft
from jaxgen.conversion.tables import flux
from jaxgen.conversion.tables import internvl
from jaxgen.conversion.tables import llama
from jaxgen.conversion.tables import qwen2_5_vl
from jaxgen.conversion.tables import qwen_image
from jaxgen.conversion.tables import sana
from jaxgen.core import trees
from jaxgen.core.errors import UserError
from jaxgen.models import registry
from jaxgen.models.layers import lora
from jaxgen.models.layers.lora import LoRA
from tests.models import parity

VOCAB = 31
ATTENTION, MLP = (3, 6.0), (2, 5.0)  # rank and alpha
GROUPS = (LoRA('decoder/layers/attention/(q|v|out)', *ATTENTION),
          LoRA('decoder/layers/mlp/.*', *MLP))


def their_base():
  """A tiny LlamaModel, the same every time."""
  torch.manual_seed(0)
  model = transformers.LlamaModel(transformers.LlamaConfig(
      vocab_size=VOCAB, hidden_size=24, intermediate_size=20, num_hidden_layers=3,
      num_attention_heads=4, num_key_value_heads=2))
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      parameter.copy_(('norm' in name) + 0.3 * torch.randn_like(parameter))
  return model


def their_adapted():
  """The same with random adapters of two sizes."""
  model = peft.get_peft_model(their_base(), peft.LoraConfig(
      r=ATTENTION[0], lora_alpha=ATTENTION[1],
      target_modules=['q_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
      rank_pattern={'mlp.*': MLP[0]}, alpha_pattern={'mlp.*': MLP[1]}))
  with torch.no_grad():
    for name, parameter in model.named_parameters():
      if 'lora_' in name:
        parameter.copy_(0.3 * torch.randn_like(parameter))
  return model


def read(folder, base):
  """Our adapters of a folder for a llama."""
  rules = llama.FAMILY.rules
  return from_theirs(rules, base, find(folder).of(linear_modules(rules, base)))


@pytest.fixture(scope='module')
def pair(tmp_path_factory):
  """``(their adapted model, our module, base params, our adapters read from peft's folder)``."""
  root = tmp_path_factory.mktemp('lora')
  theirs = their_adapted()
  their_base().save_pretrained(str(root / 'base'))
  theirs.save_pretrained(str(root / 'adapter'))
  config, tensors = load_folder(str(root / 'base'))
  module = registry.build(registry.section(
      **llama.FAMILY.read_config(config, tensors, 'base')), jnp.float32)
  base = from_torch(llama.FAMILY.rules, tensors, registry.param_shapes(module))
  adapters = read(str(root / 'adapter'), base)
  return theirs, module, base, adapters


TOKENS = np.random.default_rng(0).integers(0, VOCAB, (2, 7)).astype(np.int32)
TARGET = np.random.default_rng(1).normal(size=(2, 7, 24)).astype(np.float32)


@functools.partial(jax.jit, static_argnums=0)
def states(module, params):
  ones = jnp.ones_like(TOKENS)
  positions = jnp.cumsum(ones, axis=1) - 1
  embeddings = module.apply({'params': params}, TOKENS, method='embed')
  return module.apply({'params': params}, embeddings, positions, ones, method='decode')


@functools.partial(jax.jit, static_argnums=0)
def gradients(module, moving, fixed):
  """By the adapters alone."""
  return jax.grad(lambda low: jnp.sum(TARGET * states(module, trees.merge(low, fixed))))(moving)


def test_forward_and_gradients_equal_peft(pair):
  theirs, module, base, adapters = pair
  params = trees.merge(base, adapters)

  def their_gradients(model, tokens, target):
    out = model(tokens).last_hidden_state
    named = {name: parameter for name, parameter in model.named_parameters()
             if parameter.requires_grad}
    gradients = torch.autograd.grad(torch.sum(target * out), list(named.values()))
    return out, dict(zip(named, gradients, strict=True))

  expected = parity.theirs(theirs, their_gradients, TOKENS, TARGET)
  out = states(module, params)
  assert np.abs(states(module, base) - out).max() > 0.1

  trains = trees.match_rules(list(trees.flatten(params)),
                             ((lora.TRAINABLE, True), ('.*', False)), 'config.trainable')
  moving, fixed = trees.partition(params, trains)
  assert all(lora.is_adapter(path) for path in trees.flatten(moving))
  alphas = {path: leaf for path, leaf in trees.flatten(adapters).items() if 'alpha' in path}
  ours = to_theirs(llama.FAMILY.rules, base, trees.merge(
      gradients(module, moving, fixed), trees.unflatten(alphas)))
  by_name = {}
  for name in expected.exact[1]:
    path, _, half = name.removeprefix('base_model.model.').partition('.lora_')
    by_name[name] = ours[path].down if half.startswith('A') else ours[path].up
  assert len(by_name) == 2 * 3 * 6
  parity.assert_near((out, by_name), expected)


def test_merged_equals_unmerged(pair):
  _, module, base, adapters = pair
  params = trees.merge(base, adapters)
  merged = lora.merge(params)
  assert trees.flatten(merged).keys() == trees.flatten(base).keys()
  assert np.abs(states(module, merged) - states(module, params)).max() < 1e-5


def test_files_go_to_peft_and_back(pair, tmp_path):
  theirs, module, base, adapters = pair
  exported = to_theirs(llama.FAMILY.rules, base, adapters)
  save_peft(str(tmp_path / 'out'), exported, base='tiny')
  model = peft.PeftModel.from_pretrained(their_base(), str(tmp_path / 'out'))
  with torch.no_grad():
    expected = theirs(torch.tensor(TOKENS)).last_hidden_state
    out = model(torch.tensor(TOKENS)).last_hidden_state
  np.testing.assert_allclose(out, expected, atol=1e-6)
  again = trees.flatten(read(str(tmp_path / 'out'), base))
  for path, leaf in trees.flatten(adapters).items():
    assert again[path].tobytes() == leaf.tobytes(), path


@pytest.mark.parametrize('family, sizes', [
    (qwen2_5_vl.FAMILY, None),
    (internvl.FAMILY, dict(
        vision=dict(image_size=4, patch_size=2, width=8, layers=1, heads=2, mlp=8),
        text=dict(vocab=8, width=16, layers=2, heads=2, kv_heads=1, mlp=8)))])
def test_the_modules_in_memory_have_these_names(family, sizes):
  section = registry.section(family.name, **sizes or ODD['qwen2_5_vl'][1])
  config = transformers.AutoConfig.for_model(**family.write_config(section))
  with torch.device('meta'):
    theirs = transformers.AutoModelForImageTextToText.from_config(config)
  shapes = registry.param_shapes(registry.build(section, jnp.float32))
  ours = names_and_shapes(family.layout('modules').rules, shapes)
  assert ours == {name: tuple(leaf.shape) for name, leaf in theirs.state_dict().items()}


def test_layers_without_an_adapter_and_other_ranks_within_a_stack(pair):
  _, module, base, adapters = pair
  exported = to_theirs(llama.FAMILY.rules, base, adapters)
  name = 'layers.{}.self_attn.q_proj'
  low = exported[name.format(2)]
  half = {name.format(0): exported[name.format(0)],
          name.format(2): type(low)(low.down[:1], low.up[:, :1], 4.0)}
  ours = from_theirs(llama.FAMILY.rules, base, half)
  kernels = to_torch(llama.FAMILY.rules, lora.merge(trees.merge(base, ours)))
  plain = to_torch(llama.FAMILY.rules, base)
  for layer in range(3):
    key = f'{name.format(layer)}.weight'
    adapter = half.get(name.format(layer))
    added = 0 if adapter is None else adapter.up @ adapter.down * adapter.alpha / adapter.rank
    np.testing.assert_allclose(kernels[key], plain[key] + added, atol=1e-6)


def attached(module, groups, seed=0):
  """``(params with fresh adapters, their boxes)``."""
  def init(rng):
    return lora.attach(registry.init(module, rng)['params'], rng, groups)

  boxed = jax.eval_shape(init, jax.random.key(0))
  rng = np.random.default_rng(seed)
  shapes = trees.map_named(lambda _, leaf: leaf.value, boxed)
  return trees.map_named(
      lambda path, leaf: np.full(leaf.shape, 8, np.float32) if path.endswith('alpha') else
      rng.normal(size=leaf.shape).astype(np.float32), shapes), boxed


# Channels in another order (FLUX's parallel block) and one weight for several kernels (qkv).
ODD = {
    'mmdit': (flux, dict(in_channels=8, cond_dim=20, width=32, heads=2, double_blocks=1,
                         single_blocks=2, axes_dims=(4, 6, 6)),
              LoRA('.*', 3, 8.0), 'single_transformer_blocks.1.proj_out'),
    'qwen2_5_vl': (qwen2_5_vl, dict(
        vision=dict(width=16, layers=2, heads=2, mlp=8, full_attention=(1,)),
        text=dict(vocab=8, width=16, layers=1, heads=2, kv_heads=1, mlp=8,
                  rope_sections=(1, 1, 2))),
        LoRA('vision/layers/[qv]', 3, 8.0), 'visual.blocks.1.attn.qkv'),
}


@pytest.mark.parametrize('family', ODD)
def test_every_layout_exports_what_it_adds(family):
  table, sizes, group, module_name = ODD[family]
  rules = table.FAMILY.rules
  params, _ = attached(registry.build(registry.section(family, **sizes), jnp.float32), [group])
  base, adapters = lora.split(params)
  exported = to_theirs(rules, base, adapters)
  assert module_name in exported
  before, after = to_torch(rules, base), to_torch(rules, lora.merge(params))
  for name, weight in after.items():
    adapter = exported.get(name.removesuffix('.weight')) if name.endswith('.weight') else None
    added = 0 if adapter is None else adapter.up @ adapter.down * adapter.alpha / adapter.rank
    np.testing.assert_allclose(weight, before[name] + added, atol=1e-4, err_msg=name)
  again = lora.merge(trees.merge(base, from_theirs(rules, base, exported)))
  for path, leaf in trees.flatten(lora.merge(params)).items():
    np.testing.assert_allclose(trees.flatten(again)[path], leaf, atol=1e-4, err_msg=path)


# What IOMM's mixed fine-tuning adapts (L093): attention, of both streams where there are two.
GENERATORS = {
    'qwen_image': (qwen_image, diffusers.QwenImageTransformer2DModel, dict(
        in_channels=8, out_channels=8, cond_dim=16, width=24, heads=2, layers=2,
        axes_dims=(4, 4, 4)), ['to_q', 'to_k', 'to_v', 'to_out.0', 'add_q_proj', 'add_k_proj',
                               'add_v_proj', 'to_add_out']),
    'sana': (sana, diffusers.SanaTransformer2DModel, dict(
        in_channels=4, cond_dim=12, width=16, heads=2, cross_heads=2, layers=2),
             ['to_q', 'to_k', 'to_v', 'to_out.0']),
}


@pytest.mark.parametrize('family', GENERATORS)
def test_adapters_of_rank_64_stand_where_peft_puts_them(family, tmp_path):
  table, kind, sizes, targets = GENERATORS[family]
  rules, section = table.FAMILY.rules, registry.section(family, **sizes)
  params, _ = attached(registry.build(section, jnp.float32),
                       [LoRA('blocks/.*attention(/(q|k|v)|_out)', 64, 8.0)])
  base, adapters = lora.split(params)
  exported = to_theirs(rules, base, adapters)
  save_peft(str(tmp_path / 'out'), exported)

  def model():
    return parity.load(kind.from_config(table.FAMILY.write_config(section)), rules, base)

  wanted = peft.get_peft_model(model(), peft.LoraConfig(r=64, target_modules=targets))
  assert {f'base_model.model.{name}.lora_A.default.weight': low.down.shape
          for name, low in exported.items()} == {
              name: tuple(half.shape) for name, half in wanted.named_parameters()
              if 'lora_A' in name}
  merged = peft.PeftModel.from_pretrained(model(), str(tmp_path / 'out')).merge_and_unload()
  ours, plain = to_torch(rules, lora.merge(params)), to_torch(rules, base)
  for name, weight in merged.state_dict().items():
    np.testing.assert_allclose(weight, ours[name], atol=1e-4, err_msg=name)
    adapted = name.removesuffix('.weight') in exported
    assert np.any(np.abs(ours[name] - plain[name]) > 0.1) == adapted, name


def test_fresh_adapters_change_nothing_have_axes_and_learn(pair):
  _, module, base, _ = pair
  boxed = jax.jit(lambda rng: lora.attach(registry.init(module, rng)['params'], rng, GROUPS))(
      jax.random.key(0))
  flat = trees.flatten(boxed)
  for path, leaf in flat.items():
    assert len(leaf.names) == leaf.value.ndim and all(leaf.names), path
  q, out = 'decoder/layers/attention/q/lora', 'decoder/layers/attention/out/lora'
  assert flat[f'{q}/a'].names == ('layers', 'embed', 'lora')
  assert flat[f'{q}/b'].names == ('layers', 'lora', 'heads', 'head_dim')
  assert flat[f'{out}/a'].names == ('layers', 'heads', 'head_dim', 'lora')
  assert flat[f'{out}/b'].value.shape == (3, 3, 24)
  assert 'decoder/layers/attention/k/lora/a' not in flat
  assert np.abs(flat[f'{q}/a'].value).max() <= 24**-0.5
  fresh = trees.map_named(lambda _, leaf: np.asarray(leaf.value), boxed)
  adapters = lora.split(fresh)[1]
  np.testing.assert_array_equal(states(module, trees.merge(base, adapters)), states(module, base))

  moving, fixed = trees.partition(trees.merge(base, adapters), {
      path: path.endswith(('lora/a', 'lora/b')) for path in
      trees.flatten(trees.merge(base, adapters))})
  optimizer = optax.adam(1e-2)
  updates, _ = optimizer.update(gradients(module, moving, fixed), optimizer.init(moving))
  moved = trees.merge(optax.apply_updates(moving, updates), fixed)
  assert np.sum(TARGET * (states(module, moved) - states(module, base))) < 0


def test_comfyui_names(pair):
  _, _, base, adapters = pair
  tensors = named(to_theirs(llama.FAMILY.rules, base, adapters), COMFYUI)
  prefix = 'diffusion_model.layers.0.self_attn.q_proj'
  assert tensors[f'{prefix}.lora_down.weight'].shape == (3, 24)
  assert tensors[f'{prefix}.lora_up.weight'].shape == (24, 3)
  assert tensors[f'{prefix}.alpha'] == 6


def test_mistakes_are_named(pair, tmp_path):
  _, module, base, adapters = pair
  exported = to_theirs(llama.FAMILY.rules, base, adapters)
  with pytest.raises(UserError, match='1 adapters of modules that the model lacks: elsewhere'):
    from_theirs(llama.FAMILY.rules, base, {'elsewhere': next(iter(exported.values()))})
  name, low = next(iter(exported.items()))
  with pytest.raises(UserError, match='which do not fit'):
    from_theirs(llama.FAMILY.rules, base, {name: type(low)(low.down[:, 1:], low.up, 1.0)})
  with pytest.raises(UserError, match="config.model.lora = 'nowhere/.*': matches no linear module"):
    lora.check_used(registry.param_axes(module), [LoRA('.*', 4, 4.0), LoRA('nowhere/.*', 4, 4.0)])
  with pytest.raises(UserError, match='rank = 0'):
    LoRA('.*', 0, 4.0)
  with pytest.raises(UserError, match='no adapters to write'):
    save_peft(str(tmp_path / 'none'), {})
  assert not (tmp_path / 'none').exists()
