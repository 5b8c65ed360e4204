"""Pages of results, HTML that needs no other file: their looks, tables, and images inline."""

from collections.abc import Iterable
from html import escape

import numpy as np
from PIL import Image

from jaxgen.core.endpoint import image_url
from jaxgen.core.image_files import to_png

STYLE = '''
:root { --ink: #1c2330; --dim: #667085; --line: #e4e7ec; --card: #fff; --ground: #f6f7f9;
  --accent: #3257d6; --good: #12805c; --bad: #c4320a; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #98a2b3; --line: #2c3442;
  --card: #171c26; --ground: #0f131a; --accent: #7f9cff; --good: #4cc38a; --bad: #ff8a65; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1080px; padding: 40px 20px 80px; color: var(--ink);
  background: var(--ground); font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 18px; margin: 44px 0 14px; } h3 { font-size: 14px; margin: 18px 0 8px;
  color: var(--dim); font-weight: 500; }
.dim { color: var(--dim); } .good { color: var(--good); } .bad { color: var(--bad); }
.cards { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(310px, 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px; }
.samples { display: flex; flex-wrap: wrap; gap: 18px 14px; }
figure { margin: 0; max-width: 100%; font-size: 12px; line-height: 1.35; }
figcaption { margin-top: 4px; overflow-wrap: anywhere; } ol { margin: 4px 0; padding-left: 20px; }
figure img { width: 100%; display: block; border-radius: 6px; image-rendering: pixelated; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 6px 10px; border-bottom: 1px solid var(--line); }
th:first-child, td:first-child { text-align: left; } th { color: var(--dim); font-weight: 500; }
.pairs td { vertical-align: top; text-align: left; }
details { margin-top: 10px; } summary { cursor: pointer; }
pre { overflow: auto; font-size: 12px; line-height: 1.4; }
'''


class Html(str):
  """Text that is HTML, which ``table`` leaves as it is."""


def document(title: str, body: str, style: str = '') -> str:
  """A whole page as HTML text.

  Args:
    title: text.
    body: HTML.
    style: CSS that is added to that of all pages.
  """
  return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}'
          '</title><meta name="viewport" content="width=device-width, initial-scale=1">'
          f'<style>{STYLE}{style}</style></head><body>{body}</body></html>\n')


def table(rows: Iterable[Iterable[str]], kind: str = '') -> str:
  """A table whose first row is the head.

  Args:
    rows: of cells, which are text, or images and the like as ``Html``.
    kind: class of the table in the style of the page; '' = none.
  """
  head, *body = [[cell if isinstance(cell, Html) else escape(cell) for cell in row]
                 for row in rows]
  lines = [f'<tr><th>{"</th><th>".join(head)}</th></tr>']
  lines += [f'<tr><td>{"</td><td>".join(row)}</td></tr>' for row in body]
  marked = f' class="{kind}"' if kind else ''
  return f'<table{marked}>{"".join(lines)}</table>'


def picture(image: np.ndarray, side: int, alt: str = '') -> str:
  """uint8[H, W, 3] as ``<img>`` with a PNG file in its address, at most ``side`` pixels long."""
  shown = Image.fromarray(image)
  shown.thumbnail((side, side))
  return f'<img alt="{escape(alt)}" src="{image_url(to_png(np.asarray(shown)))}">'
