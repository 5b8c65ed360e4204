"""The house keeps its shape: imports go down only, files and functions stay readable."""

import ast
import pathlib

import pytest

from jaxgen.data.positions import SCHEMES
from jaxgen.models.registry import FAMILIES

ROOT = pathlib.Path(__file__).parents[1]
FILES = sorted((ROOT / 'jaxgen').rglob('*.py'))

# Each part may import itself and what stands on a lower floor. Parts of one floor do not know
# each other.
FLOORS = [
    {'core'},
    {'config'},
    {'sharding'},
    {'checkpoints', 'operations'},
    {'data', 'models'},
    {'objectives'},
    {'systems'},
    {'training', 'sampling'},
    {'planning'},
    {'conversion'},
    {'features'},
    {'curation', 'evaluation', 'finetuning', 'serving'},
    {'flags'},
    {'cli'},
]
LEVEL = {part: level for level, floor in enumerate(FLOORS) for part in floor}
# Where a floor may not use everything below it.
NEVER = {
    'conversion': {'training', 'sampling'},
}
# Systems of published models have the names of their denoisers, which lower floors know.
SYSTEMS = {path.stem for path in (ROOT / 'jaxgen/systems').glob('*.py')} - {
    '__init__', 'base', 'parts', 'registry', *FAMILIES, *SCHEMES}
MAX_LINES = 450
MAX_FUNCTION = 80
MAX_COLUMNS = 100


def part_of(path: pathlib.Path) -> str:
  return path.relative_to(ROOT / 'jaxgen').parts[0].removesuffix('.py')


def imported_parts(tree: ast.AST) -> set[str]:
  """Parts of jaxgen that the module imports, at the top or inside a function."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      names |= {f'{node.module}.{alias.name}' for alias in node.names}
  return {name.split('.')[1] for name in names if name.startswith('jaxgen.')}


def names_in(tree: ast.AST) -> set[str]:
  """Identifiers and short strings: where the name of a system could hide."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Name):
      names.add(node.id.lower())
    elif isinstance(node, ast.Attribute):
      names.add(node.attr.lower())
    elif isinstance(node, ast.Constant) and isinstance(node.value, str) and ' ' not in node.value:
      names.add(node.value.lower())
  return names


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(ROOT)))
def module(request):
  return request.param, ast.parse(request.param.read_text())


def test_imports_go_down(module):
  path, tree = module
  part = part_of(path)
  if part == '__init__':
    return
  allowed = {other for other in LEVEL if LEVEL[other] < LEVEL[part]} | {part}
  allowed -= NEVER.get(part, set())
  assert imported_parts(tree) <= allowed


def test_system_names_stay_upstairs(module):
  path, tree = module
  part = part_of(path)
  if part == '__init__' or LEVEL[part] >= LEVEL['systems'] or path.name == 'schema.py':
    return
  assert not names_in(tree) & SYSTEMS


def test_files_and_functions_are_short(module):
  path, tree = module
  assert path.name != 'utils.py'
  lines = path.read_text().splitlines()
  assert len(lines) <= MAX_LINES
  assert not [number for number, line in enumerate(lines, 1) if len(line) > MAX_COLUMNS]
  for node in ast.walk(tree):
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
      assert node.end_lineno - node.lineno < MAX_FUNCTION, node.name


def test_every_file_says_what_it_does(module):
  _, tree = module
  assert ast.get_docstring(tree)


def test_public_functions_are_documented(module):
  _, tree = module
  bodies = [tree, *(node for node in tree.body if isinstance(node, ast.ClassDef))]
  for node in (node for body in bodies for node in body.body):
    if isinstance(node, ast.FunctionDef) and not node.name.startswith('_'):
      assert ast.get_docstring(node) or node.end_lineno - node.lineno < 15, node.name


def test_every_part_has_a_floor():
  assert {part_of(path) for path in FILES} - {'__init__'} <= LEVEL.keys()
  assert SYSTEMS
