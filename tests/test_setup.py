"""setup.cfg declares what jaxgen imports, and caps the one package whose internals it calls."""

import ast
import configparser
import importlib
import importlib.metadata
import pathlib
import sys

from packaging.requirements import Requirement

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / 'jaxgen').rglob('*.py'))
# Modules of jax whose functions may change in any release.
INTERNAL = ('jax._src', 'jax.experimental.pallas.ops')


def requirements():
  """Requirements of the default install and of the extras, by the name of the package."""
  options = configparser.ConfigParser()
  options.read(ROOT / 'setup.cfg')
  default = options['options']['install_requires'].split('\n')
  extras = [line for lines in options['options.extras_require'].values()
            for line in lines.split('\n')]
  default, extras = ([Requirement(line) for line in lines if line] for lines in (default, extras))
  return {each.name.lower().replace('-', '_'): each for each in (*extras, *default)}


def internal_names(tree):
  """``(module, name)`` of everything that a file takes from internal modules of jax."""
  modules, names = {}, set()
  for node in ast.walk(tree):
    if isinstance(node, ast.ImportFrom) and (node.module or '').startswith(INTERNAL):
      for alias in node.names:
        names.add((node.module, alias.name))
        modules[alias.asname or alias.name] = f'{node.module}.{alias.name}'
  for node in ast.walk(tree):
    if (isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        and node.value.id in modules):
      names.add((modules[node.value.id], node.attr))
  return names


def holder(path):
  """The module, or the object in a module, with this dotted path."""
  try:
    return importlib.import_module(path)
  except ModuleNotFoundError:
    module, _, name = path.rpartition('.')
    return getattr(importlib.import_module(module), name)


def test_every_package_that_is_imported_is_declared():
  imported = set()
  for file in FILES:
    for node in ast.walk(ast.parse(file.read_text())):
      if isinstance(node, ast.Import):
        imported |= {alias.name.split('.')[0] for alias in node.names}
      elif isinstance(node, ast.ImportFrom):
        imported.add(node.module.split('.')[0])
  packages = importlib.metadata.packages_distributions()
  declared = requirements().keys()
  missing = {name for name in imported - sys.stdlib_module_names - {'jaxgen', 'configs'}
             if not {each.lower().replace('-', '_') for each in packages[name]} & declared}
  assert not missing


def test_internals_of_jax_that_are_called_exist():
  """A release of jax that renames one must stay above the cap in setup.cfg."""
  names = set().union(*(internal_names(ast.parse(file.read_text())) for file in FILES))
  private = {name for _, name in names if name.startswith('_')}
  assert private == {'_dot_product_attention_fwd_impl', '_dot_product_attention_bwd_impl',
                     '_splash_attention_forward', '_splash_attention_bwd'}
  for module, name in sorted(names):
    try:
      importlib.import_module(f'{module}.{name}')
    except ModuleNotFoundError:
      assert hasattr(holder(module), name), f'{module}.{name}'


def test_jax_is_capped_below_the_first_unknown_release():
  """``constraints.txt`` names the version that the tests ran with; the cap is its next minor."""
  pins = dict(line.split('==') for line in (ROOT / 'constraints.txt').read_text().splitlines()
              if '==' in line)
  known, allowed = pins['jax'], requirements()['jax'].specifier
  major, minor, _ = known.split('.')
  assert known in allowed and importlib.metadata.version('jax') in allowed
  assert f'{major}.{int(minor) + 1}.0' not in allowed
