"""Hooks of mkdocs (``make docs``): pages of the site that are not files in docs/.

  index.md, contributing.md   README.md and CONTRIBUTING.md
  reference/                  made from the code by tools/reference.py
  source/                     every file and folder outside docs/ that a page links to

So links that work in the repository work on the site, and one that leads nowhere fails the build.
"""

import os
import pathlib
import re

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

import reference

ROOT = pathlib.Path(__file__).parents[1]
PAGES = {'README.md': 'index.md', 'CONTRIBUTING.md': 'contributing.md'}
# Code, which is left alone, or the target of a link with its anchor.
LINK = re.compile(r'```.*?```|`[^`\n]*`|\]\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)',
                  re.DOTALL)
LANGUAGES = {'.py': 'python', '.sh': 'sh', '.sbatch': 'sh', '.env': 'sh', '.json': 'json',
             '.yaml': 'yaml', '.md': 'markdown'}


def on_files(files: Files, config: MkDocsConfig) -> Files:
  """Adds the pages that are not files in docs/."""
  made = {f'reference/{name}.md': text for name, text in reference.pages().items()}
  linked = set()
  for file in files.documentation_pages():
    linked |= targets(file.content_string, f'docs/{file.src_uri}')
  for path, page in PAGES.items():
    text = (ROOT / path).read_text()
    linked |= targets(text, path)
    made[page] = rewritten(text, path)
  for path in linked:
    if place(path).startswith('source/') and (ROOT / path).exists():
      made[place(path)] = listing(path)
  for page, text in made.items():
    files.append(File.generated(config, page, content=text))
  return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
  """Rewrites the links of a page of docs/ that lead out of it."""
  made = page.file.generated_by is not None
  return markdown if made else rewritten(markdown, f'docs/{page.file.src_uri}')


def targets(text: str, origin: str) -> set[str]:
  """What a page links to in the repository, as paths from its root.

  Args:
    text: Markdown.
    origin: path of the page from the root.
  """
  return {resolved(match['path'], origin) for match in LINK.finditer(text) if match['path']}


def rewritten(text: str, origin: str) -> str:
  """The page with its links leading to where the site has what they name; see ``targets``."""
  here = os.path.dirname(place(origin))

  def link(match: re.Match) -> str:
    if not match['path']:
      return match[0]
    path = os.path.relpath(place(resolved(match['path'], origin)), here or '.')
    return f']({path}{match["anchor"] or ""})'

  return LINK.sub(link, text)


def resolved(path: str, origin: str) -> str:
  """A link of a page as a path from the root of the repository."""
  return os.path.normpath(os.path.join(os.path.dirname(origin), path))


def place(path: str) -> str:
  """Where the site has a file or folder of the repository."""
  if path in PAGES:
    return PAGES[path]
  if path.startswith('docs/'):
    return path.removeprefix('docs/')
  return f'source/{path}/index.md' if (ROOT / path).is_dir() else f'source/{path}.md'


def listing(path: str) -> str:
  """The page of a file, or of a folder with the first line of each of its files."""
  head = f'---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n'
  if not (ROOT / path).is_dir():
    language = LANGUAGES.get(pathlib.Path(path).suffix, 'text')
    return f'{head}````{language}\n{(ROOT / path).read_text()}````\n'
  names = sorted(file.name for file in (ROOT / path).iterdir() if not file.name.startswith('__'))
  return head + ''.join(f'- `{name}`\n' for name in names)
