"""The reference pages of the site, made from the code: commands, config, models, Python.

Flags come from the parser of ``jaxgen``, config fields from ``base_config()`` with the comments of
the schema, model fields from the docstrings of their config classes. ``tools/docs_site.py`` puts
the pages into the site; ``tests/test_docs.py`` checks that nothing is left out.
"""

import argparse
import ast
import dataclasses
import inspect
import io
import re
import tokenize
import typing
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict

from jaxgen import cli
from jaxgen.config import schema

# What a program that uses jaxgen calls or implements, in the order of the page.
PYTHON = {
    'Configs': ('jaxgen.config.base_config', 'jaxgen.config.source', 'jaxgen.config.lora',
                'jaxgen.config.load_config', 'jaxgen.config.overridden',
                'jaxgen.config.validate.validate', 'jaxgen.config.to_json',
                'jaxgen.config.from_json', 'jaxgen.models.registry.section'),
    'Training': ('jaxgen.training.loop.train', 'jaxgen.finetuning.commands.finetune',
                 'jaxgen.finetuning.commands.Wishes'),
    'Drawing': ('jaxgen.sampling.load.load_run', 'jaxgen.sampling.load.load_published',
                'jaxgen.sampling.load.Run', 'jaxgen.sampling.request.make_request',
                'jaxgen.sampling.request.Request'),
    'Dialogues': ('jaxgen.sampling.interleaved.Dialogue', 'jaxgen.sampling.interleaved.Options',
                  'jaxgen.sampling.interleaved.Event'),
    'Samples': ('jaxgen.data.sample.Sample', 'jaxgen.data.sample.Part',
                'jaxgen.data.sample.FileImage'),
    'Weights of other libraries': (
        'jaxgen.conversion.pretrained.load_pretrained',
        'jaxgen.conversion.pretrained.save_pretrained',
        'jaxgen.conversion.pretrained.read_external', 'jaxgen.conversion.pipelines.open_pipeline',
        'jaxgen.conversion.pipelines.Pipeline'),
    'Scores and reports': ('jaxgen.evaluation.evaluate.evaluate',
                           'jaxgen.evaluation.report.write_report'),
    'Plans': ('jaxgen.planning.plan.make_plan', 'jaxgen.planning.plan.Plan'),
    'Systems and objectives': ('jaxgen.systems.base.System', 'jaxgen.objectives.base.Objective'),
    'The batch': tuple(f'jaxgen.core.types.{name}' for name in (
        'Batch', 'Visual', 'Prompt', 'Tower', 'Meta', 'Conditioning', 'Layout')),
    'Errors': ('jaxgen.core.errors.UserError', 'jaxgen.core.errors.user_error'),
}


def pages() -> dict[str, str]:
  """Name of each page -> its Markdown."""
  return dict(commands=commands(), config=config(), models=models(), python=python())


def commands() -> str:
  """Every command with its flags."""
  parts = ['# Command line', cli.make_parser().description, cli.make_parser().epilog]
  for name, parser in parsers():
    rows = [(_flag(action), _default(action), (action.help or '') % vars(action))
            for action in parser._actions if action.dest != 'help']
    parts += [f'## {name}', f'{_sentence(parser.description)}', table(
        ('flag', 'default', 'meaning'), rows)]
  return '\n\n'.join(parts) + '\n'


def parsers() -> Iterator[tuple[str, argparse.ArgumentParser]]:
  """``(name, parser)`` of every command, as ``jaxgen data pack``."""
  def below(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    deeper = [action for action in parser._actions
              if isinstance(action, argparse._SubParsersAction)]
    if not deeper:
      yield parser.prog, parser
    for action in deeper:
      for child in action.choices.values():
        yield from below(child)

  return below(cli.make_parser())


def config() -> str:
  """A table of every section of the config."""
  parts = ['# Config fields',
           'A config file assigns what differs from these defaults; `--config.section.field=value` '
           'changes a field on the command line. What a model section may hold: '
           '[models](models.md).']
  for section, rows in fields().items():
    parts += [f'## {section or "The root"}', table(('field', 'type', 'default', 'meaning'), rows)]
  for name, what in (('source', 'An entry of `data.sources`'), ('lora', 'One of `model.lora`')):
    function = getattr(schema, name)
    texts = _described(function, 'Args')
    rows = [(f'`{field.name}`', _type(field.annotation),
             '' if field.default is field.empty else f'`{field.default!r}`', texts[field.name])
            for field in inspect.signature(function).parameters.values()]
    parts += [f'## {name}', f'{what}: `{name}(...)`.',
              table(('argument', 'type', 'default', 'meaning'), rows)]
  return '\n\n'.join(parts) + '\n'


def fields() -> dict[str, list[tuple[str, str, str, str]]]:
  """Section, as ``data.dropout`` -> rows ``(field, type, default, meaning)``."""
  meanings, found = _meanings(), {}
  order = {path: place for place, path in enumerate(meanings)}

  def walk(section: ConfigDict, name: str) -> None:
    rows = found.setdefault(name, [])
    paths = {f'{name}.{key}'.lstrip('.'): value for key, value in section.items()}
    for path, value in sorted(paths.items(), key=lambda item: order[item[0]]):
      if isinstance(value, ConfigDict) and len(value):
        walk(value, path)
        continue
      kind, default = (('section', '') if isinstance(value, ConfigDict) else
                       (type(value).__name__, f'`{value!r}`'))
      rows.append((f'`{path.rpartition(".")[2]}`', kind, default, meanings[path]))

  walk(schema.base_config(), '')
  return found


def models() -> str:
  """A table of the config of every family of models."""
  from jaxgen.models.registry import FAMILIES
  parts = ['# Model fields',
           "`config.model.<group> = section('family', field=value, ...)` of "
           '`jaxgen.models.registry` makes a section with all fields of a family.']
  by_config: dict[type, list[str]] = {}
  for name, family in FAMILIES.items():
    by_config.setdefault(family.config, []).append(name)
  headings = {kind: ', '.join(names) for kind, names in by_config.items()}
  for kind in by_config:
    headings |= {nested: nested.__name__ for nested in _nested(kind) if nested not in headings}
  for kind, heading in headings.items():
    group = FAMILIES[by_config[kind][0]].group if kind in by_config else ''
    usual = f'Usual group: `{group}`. ' if group else ''
    parts += [f'## {heading}', usual + _first(kind), _model(kind, headings)]
  return '\n\n'.join(parts) + '\n'


def python() -> str:
  """The page that mkdocstrings fills from docstrings."""
  parts = ['# Python', 'What a program calls, and the classes that a new system or objective '
           'implements. Shape letters: `B` rows, `L` visual tokens, `S` prompt tokens, `P` vision '
           'patches, `G` segments, `T` tower tokens, `N` heads, `H` head channels, `D` model '
           'channels, `F` MLP channels, `C` latent channels.']
  for heading, names in PYTHON.items():
    parts += [f'## {heading}', *(f'::: {name}' for name in names)]
  return '\n\n'.join(parts) + '\n'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
  """A table in Markdown; ledger numbers are left out."""
  cells = [[_cell(text) for text in line] for line in (head, *rows)]
  cells.insert(1, ['---'] * len(cells[0]))
  return '\n'.join(f'| {" | ".join(line)} |' for line in cells)


def _cell(text: str) -> str:
  text = re.sub(r' \(\s*\)', '', re.sub(r'(, )?\b[LA]\d{2,3}\b', '', ' '.join(text.split())))
  return (text if '`' in text else text.replace('<', '&lt;')).replace('|', '\\|')


def _flag(action: argparse.Action) -> str:
  name = ', '.join(action.option_strings) or action.metavar or action.dest
  value = action.metavar or action.dest.upper()
  takes = action.option_strings and action.nargs != 0
  required = ' (required)' if action.required else ''
  return f'`{name}{"=" + value if takes else ""}`{required}'


def _default(action: argparse.Action) -> str:
  if action.choices:
    return ', '.join(f'**`{each}`**' if each == action.default else f'`{each}`'
                     for each in action.choices if each != '')
  empty = action.default is None or action.default in ('', [], False)
  return '' if empty or action.required else f'`{action.default}`'


def _meanings() -> dict[str, str]:
  """Path of a config field -> what the comment of the schema says about it, in its order."""
  text = inspect.getsource(schema)
  beside, above = _comments(text)
  functions = {node.name: node for node in ast.parse(text).body
               if isinstance(node, ast.FunctionDef)}
  found = {}

  def walk(call: ast.Call, path: str) -> None:
    for keyword in call.keywords:
      name, value = f'{path}.{keyword.arg}'.lstrip('.'), keyword.value
      called = ast.unparse(value.func) if isinstance(value, ast.Call) else ''
      if called in functions:
        walk(_returned(functions[called]), name)
      elif called == 'dict':
        walk(value, name)
      lines = (value.end_lineno, keyword.lineno)
      said = next((beside[line] for line in lines if line in beside), '') or above.get(
          keyword.lineno, '')
      found[name] = said

  walk(_returned(functions['base_config']).args[0], '')
  return found


def _comments(text: str) -> tuple[dict[int, str], dict[int, str]]:
  """Line -> the comment at its end; line -> the comment lines right above it."""
  beside, own = {}, {}
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type == tokenize.COMMENT:
      alone = not token.line[:token.start[1]].strip()
      (own if alone else beside)[token.start[0]] = token.string.lstrip('# ')
  above: dict[int, str] = {}
  for line, said in own.items():
    before = above.pop(line, '')
    above[line + 1] = f'{before} {said}'.strip()
  return beside, above


def _returned(function: ast.FunctionDef) -> ast.Call:
  return function.body[-1].value


def _described(thing: Any, heading: str) -> Mapping[str, str]:
  """Name -> text of a section of a docstring."""
  text = inspect.getdoc(thing).partition(f'{heading}:\n')[2]
  entries = re.split(r'^  (?=\S)', text.split('\n\n')[0], flags=re.MULTILINE)[1:]
  found = {}
  for entry in entries:
    names, _, said = entry.partition(':')
    found |= dict.fromkeys(re.split(r', ', names), said)
  return found


def _model(kind: type, headings: Mapping[type, str]) -> str:
  """The fields of a config class; a field that is itself a config leads to its heading."""
  hints, texts = typing.get_type_hints(kind), {}
  for known in reversed(kind.__mro__[:-1]):  # fields that it inherits are told where they stand
    texts |= _described(known, 'Attributes')
  rows = []
  for field in dataclasses.fields(kind):
    needed = field.default is dataclasses.MISSING
    default = '' if needed or dataclasses.is_dataclass(field.default) else f'`{field.default!r}`'
    hint = hints[field.name]
    anchor = headings.get(hint, '').lower().replace(', ', '-')
    rows.append((f'`{field.name}`' + (' (required)' if needed else ''),
                 f'[{headings[hint]}](#{anchor})' if anchor else _type(hint), default,
                 texts[field.name]))
  return table(('field', 'type', 'default', 'meaning'), rows)


def _nested(kind: type) -> Iterator[type]:
  for hint in typing.get_type_hints(kind).values():
    if dataclasses.is_dataclass(hint):
      yield hint
      yield from _nested(hint)


def _type(hint: Any) -> str:
  return f'`{hint.__name__ if isinstance(hint, type) and not typing.get_args(hint) else hint}`'


def _first(kind: type) -> str:
  return ' '.join(inspect.getdoc(kind).split('\n\n')[0].split())


def _sentence(text: str) -> str:
  return f'{text[0].upper()}{text[1:]}{"" if text.endswith(".") else "."}'
