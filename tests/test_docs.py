"""The documentation: the site builds as it is meant to, and what pages say to run exists."""

import importlib
import pathlib
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser

import markdown
import pytest
import yaml
from markdown_it import MarkdownIt

from jaxgen.config import base_config

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [*sorted((ROOT / 'docs').rglob('*.md')), ROOT / 'README.md', ROOT / 'CONTRIBUTING.md']
BLOCK = re.compile(r'^```sh\n(.*?)^```', re.DOTALL | re.MULTILINE)
OTHER_BLOCKS = re.compile(r'^```.*?^```', re.DOTALL | re.MULTILINE)
COUNTED = ('h2', 'h3', 'li', 'table', 'td', 'pre', 'img', 'em', 'strong')


@pytest.fixture(scope='module')
def reference():
  return tool('reference')


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> pathlib.Path:
  """The built site; warnings are errors, also of links, anchors and pages outside the nav."""
  folder = tmp_path_factory.mktemp('site')
  result = subprocess.run(
      [sys.executable, '-m', 'mkdocs', 'build', '--quiet', f'--site-dir={folder}'], cwd=ROOT,
      text=True, capture_output=True, check=False)
  assert result.returncode == 0, result.stderr
  return folder


def tool(name: str):
  sys.path.insert(0, str(ROOT / 'tools'))
  try:
    return importlib.import_module(name)
  finally:
    sys.path.pop(0)


class Elements(HTMLParser):
  """Counts elements, and collects what a page loads from elsewhere."""

  def __init__(self, text: str):
    super().__init__()
    self.counts, self.fetched = dict.fromkeys(COUNTED, 0), []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    if tag in self.counts:
      self.counts[tag] += 1
    if tag in ('script', 'link', 'img', 'iframe'):
      self.fetched += [value for name, value in attrs
                       if name in ('src', 'href') and re.match('(https?:)?//', value or '')]


def test_the_site_needs_no_network(site):
  pages = sorted(site.rglob('*.html'))
  assert len(pages) > len(PAGES)
  for page in pages:
    assert not Elements(page.read_text()).fetched, page
  for style in site.rglob('*.css'):
    assert not re.search(r'url\(["\']?(https?:)?//|@import', style.read_text()), style


def test_every_docstring_of_the_reference_renders(site, reference):
  text = (site / 'reference/python.html').read_text()
  for names in reference.PYTHON.values():
    for name in names:
      assert f'id="{name}"' in text, name
  assert not re.search(r'<p>(Args|Returns|Raises|Attributes):', text)


def test_pages_of_the_repository_are_on_the_site(site):
  settings = yaml.unsafe_load((ROOT / 'mkdocs.yml').read_text())
  assert settings['strict']
  kinds = {**settings['validation']['nav'], **settings['validation']['links']}
  assert set(kinds.values()) == {'warn'}  # which strict makes errors
  text = (site / 'index.html').read_text()
  assert 'href="source/jaxgen/core/types.py.html"' in text and 'href="quickstart.html"' in text
  assert 'class Batch' in Plain((site / 'source/jaxgen/core/types.py.html').read_text()).text


class Plain(HTMLParser):
  """The text of a page."""

  def __init__(self, text: str):
    super().__init__()
    self.text = ''
    self.feed(text)

  def handle_data(self, data):
    self.text += data


def test_links_to_nowhere_stay_as_they_are_for_mkdocs_to_refuse():
  made = tool('docs_site').rewritten
  assert made('[a](none.md) `[b](README.md)`', 'README.md') == (
      '[a](source/none.md.md) `[b](README.md)`')
  assert made('[a](../README.md#limits) [b](../jaxgen)', 'docs/data.md') == (
      '[a](index.md#limits) [b](source/jaxgen/index.md)')
  assert made('[a](https://a.b/c) [d](#e)', 'docs/data.md') == '[a](https://a.b/c) [d](#e)'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_a_page_reads_the_same_on_github_and_on_the_site(page):
  """Python-Markdown wants blank lines and indents where GitHub does not."""
  text = re.sub(r'<!--.*?-->\n?', '', page.read_text(), flags=re.DOTALL)
  settings = yaml.unsafe_load((ROOT / 'mkdocs.yml').read_text())
  names = [next(iter(each)) if isinstance(each, dict) else each
           for each in settings['markdown_extensions']]
  ours = markdown.markdown(text, extensions=names)
  theirs = MarkdownIt('commonmark').enable('table').render(text)
  assert Elements(ours).counts == Elements(theirs).counts


def test_every_field_and_flag_is_in_the_reference(reference):
  found = reference.fields()
  assert {section: {row[0].strip('`') for row in rows} for section, rows in found.items()} == {
      section: names for section, names in sections(base_config())}
  assert not [(section, row[0]) for section, rows in found.items() for row in rows if not row[3]]
  text = reference.commands()
  for name, parser in reference.parsers():
    assert f'## {name}\n' in text
  assert '| `--weights=WEIGHTS` | **`ema`**, `params` |' in text
  assert '(L0' not in reference.config() and '&lt;image_n>' in reference.config()


def sections(config, name='') -> Iterator[tuple[str, set[str]]]:
  deeper = {key for key, value in config.items() if hasattr(value, 'items') and len(value)}
  yield name, set(config) - deeper
  for key in deeper:
    yield from sections(config[key], f'{name}.{key}'.lstrip('.'))


def commands() -> Iterator[tuple[str, list[str]]]:
  """``(page, words)`` of every command that a page tells to run; a quoted value holds none."""
  for page in PAGES:
    text = page.read_text()
    lines = [line for block in BLOCK.findall(text)
             for line in block.replace('\\\n', ' ').splitlines()]
    inline = re.findall(r'`([^`]+)`', OTHER_BLOCKS.sub('', text))
    lines += [code.replace('\n', ' ') for code in inline]
    for line in lines:
      # Of several commands in one line, each; without what stands for any value.
      for part in re.split(r'&&|\||;', line.partition(' #')[0]):
        part = re.sub("='[^']*'", '=value', part)
        words = re.sub(r'[\[\]"\'()]|\.\.\.', ' ', part).split()
        while words and re.fullmatch(r'[A-Z_]+=\S*|srun|sbatch|\+', words[0]):
          words = words[1:]
        if words and re.fullmatch(r'(\S*/)?(jaxgen|make)|launch/\S+', words[0]):
          yield page.name, words


def test_every_command_of_a_page_exists(reference):
  known = {tuple(name.split()[1:]): {word for action in parser._actions
                                     for word in action.option_strings}
           for name, parser in reference.parsers()}
  targets = set(re.findall(r'^([a-z-]+):', (ROOT / 'Makefile').read_text(), re.MULTILINE))
  checked = 0
  for page, words in commands():
    if words[0] == 'make':
      assert not words[1:] or words[1] in targets, (page, words)
    elif words[0].startswith('launch/'):
      assert '*' in words[0] or (ROOT / words[0]).exists(), (page, words)
    if 'jaxgen' not in words:
      continue
    rest = words[words.index('jaxgen') + 1:]
    name = next((key for key in known if tuple(rest[:len(key)]) == key), None)
    assert name or not rest or rest[0] in {key[0] for key in known} or rest[0][0] == '-', words
    for word in rest if name else ():
      flag, _, value = word.partition('=')
      if word.startswith('--config.'):
        check_field(flag.removeprefix('--config.'), page)
      elif word.startswith('--') and flag != '--':
        assert flag in known[name], (page, words)
        if flag == '--config' and value.startswith('configs/'):
          assert (ROOT / value.partition(':')[0]).exists(), (page, words)
      checked += 1
  assert checked > 200


def check_field(path: str, page: str) -> None:
  """A field of the schema; below sections that every config fills, any."""
  section = base_config()
  for name in path.split('.'):
    if not len(section):
      return
    assert name in section or name == 'section', (page, path)
    if name == 'section':
      return
    section = section[name]
    if not hasattr(section, 'items'):
      return
