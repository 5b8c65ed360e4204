"""A dialogue as a page that needs no other file: its turns one below another, images inline."""

import base64
import itertools
from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from jaxgen.data.decode import decode
from jaxgen.data.sample import Part
from jaxgen.sampling.images import to_png
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.interleaved import ENDED

SIDE = 1024  # longest side of an image on the page, in its own pixels
_STYLE = '''
:root { --ink: #1c2330; --dim: #667085; --line: #e4e7ec; --card: #fff; --ground: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --dim: #98a2b3; --line: #2c3442;
  --card: #171c26; --ground: #0f131a; } }
body { margin: 0 auto; max-width: 760px; padding: 32px 20px 64px; color: var(--ink);
  background: var(--ground); font: 16px/1.55 system-ui, sans-serif; }
h1 { font-size: 20px; margin: 0 0 20px; overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  padding: 10px 16px; margin: 12px 0; }
section.user { margin-left: 15%; } section.system { border-style: dashed; }
h2 { font-size: 12px; font-weight: 500; margin: 0; color: var(--dim); }
p { margin: 8px 0; white-space: pre-wrap; overflow-wrap: anywhere; }
img { display: block; margin: 10px 0; max-width: 100%; min-width: 160px; border-radius: 8px;
  image-rendering: pixelated; }
footer { color: var(--dim); font-size: 13px; margin-top: 24px; overflow-wrap: anywhere; }
'''


def render(dialogue: Dialogue, settings: Mapping[str, Any]) -> str:
  """The page as HTML text.

  Args:
    dialogue: answered, or as far as it is.
    settings: what the answer depends on.
  """
  turns = itertools.groupby(dialogue.sample.parts, _speaker)
  sections = [f'<section class="{who}"><h2>{who}</h2>{"".join(map(_part, parts))}</section>'
              for who, parts in turns]
  told = ', '.join(f'{name} {value}' for name, value in settings.items()
                   if value not in (None, ''))
  ended = ENDED.get(dialogue.ended, dialogue.ended) or 'the answer goes on'
  return (f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>'
          f'{escape(dialogue.sample.id)}</title><meta name="viewport" content="width=device-width, '
          f'initial-scale=1"><style>{_STYLE}</style></head><body><h1>{escape(dialogue.sample.id)}'
          f'</h1>{"".join(sections)}<footer>{escape(ended)}<br>{escape(told)}</footer></body>'
          '</html>\n')


def _speaker(part: Part) -> str:
  """Whose turn a part belongs to."""
  if part.is_image:
    return 'assistant' if part.role == 'target' else 'user'
  return part.role


def _part(part: Part) -> str:
  if not part.is_image:
    return f'<p>{escape(part.text)}</p>'
  image = Image.fromarray(decode(part.image))
  image.thumbnail((SIDE, SIDE))
  data = base64.b64encode(to_png(np.asarray(image))).decode()
  return f'<img alt="{part.role}" src="data:image/png;base64,{data}">'
