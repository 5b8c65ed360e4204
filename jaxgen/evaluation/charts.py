"""Charts as inline SVG without scripts: loss curves and bars with a baseline."""

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 26
POINTS = 300  # most points per curve; longer curves are averaged

STYLE = '''
svg { width: 100%; display: block; } svg text { font-size: 10px; fill: var(--dim); }
.grid { stroke: var(--line); } path { fill: none; stroke: var(--accent); stroke-linejoin: round; }
path.raw { opacity: .25; } path.mean { stroke-width: 1.8; } path.curve1 { stroke: var(--bad); }
.key { color: var(--accent); margin-right: 14px; } .key.curve1 { color: var(--bad); }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: 7px 14px;
  align-items: center; } .bars em { font-style: normal; font-variant-numeric: tabular-nums; }
.track { position: relative; height: 12px; border-radius: 6px; background: var(--line); }
.track b { position: absolute; inset: 0 auto 0 0; border-radius: 6px; background: var(--accent); }
.track i { position: absolute; top: -3px; bottom: -3px; width: 2px; background: var(--bad); }
'''


def line_chart(steps: Sequence[float], values: Sequence[float], title: str) -> str:
  """One curve over steps, see ``line_charts``."""
  return line_charts({'': list(zip(steps, values, strict=True))}, title)


def line_charts(curves: Mapping[str, Sequence[tuple[float, float | None]]], title: str) -> str:
  """Curves over steps in one chart: raw values drawn faintly, with their running mean on top.

  The axis is logarithmic if all values are positive and span more than a factor of 20. Values that
  are not finite (skipped steps) are left out.

  Args:
    curves: name -> pairs of step and value; an empty name has no legend.
    title: for readers of the page that see no pictures.
  """
  thinned = {name: _thin([(x, y) for x, y in pairs if y is not None and math.isfinite(y)])
             for name, pairs in curves.items()}
  steps = [x for xs, _ in thinned.values() for x in xs]
  values = [y for _, ys in thinned.values() for y in ys]
  if not values:
    return '<p>nothing was logged</p>'
  logarithmic = min(values) > 0 and max(values) > 20 * min(values)
  scaled = {name: [math.log10(y) for y in ys] if logarithmic else ys
            for name, (_, ys) in thinned.items()}
  low, high = (pick(y for ys in scaled.values() for y in ys) for pick in (min, max))
  high = high if high > low else low + 1
  first, last = min(steps), max(max(steps), min(steps) + 1)

  def place(x: float, height: float) -> tuple[float, float]:
    across = (x - first) / (last - first) * (WIDTH - LEFT - RIGHT) + LEFT
    return across, (high - height) / (high - low) * (HEIGHT - TOP - BOTTOM) + TOP

  parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
  for tick in _ticks(low, high):
    _, y = place(first, tick)
    label = _number(10**tick if logarithmic else tick)
    parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
                 f'<text x="{LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{label}</text>')
  for tick in _ticks(first, last):
    x, _ = place(tick, low)
    parts.append(f'<text x="{x:.1f}" y="{HEIGHT - 8}" text-anchor="middle">{_number(tick)}</text>')
  legend = []
  for index, (name, (xs, _)) in enumerate(thinned.items()):
    which = f' curve{index}' if index else ''
    for kind, ys in (('raw', scaled[name]), ('mean', _smooth(scaled[name]))):
      parts.append(_path(kind + which, [place(x, y) for x, y in zip(xs, ys, strict=True)]))
    legend += [f'<span class="key{which}">{escape(name)}</span>'] if name else []
  return ''.join([*parts, '</svg>', *legend])


def bar_chart(rows: Mapping[str, tuple[float, float | None]]) -> str:
  """Horizontal bars of shares in [0, 1]: name -> (value, baseline or None)."""
  parts = ['<div class="bars">']
  for name, (value, baseline) in rows.items():
    mark = '' if baseline is None else (
        f'<i style="left:{100 * baseline:.1f}%" title="untrained {baseline:.2f}"></i>')
    parts.append(f'<span>{escape(name.replace("_", " "))}</span>'
                 f'<div class="track"><b style="width:{100 * value:.1f}%"></b>{mark}</div>'
                 f'<em>{value:.2f}</em>')
  return ''.join(parts) + '</div>'


def _thin(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
  size = max(math.ceil(len(pairs) / POINTS), 1)
  groups = [pairs[start:start + size] for start in range(0, len(pairs), size)]
  xs = [sum(x for x, _ in group) / len(group) for group in groups]
  ys = [sum(y for _, y in group) / len(group) for group in groups]
  return xs, ys


def _smooth(values: Sequence[float]) -> list[float]:
  reach = max(1, len(values) // 40)
  windows = [values[max(0, index - reach):index + reach + 1] for index in range(len(values))]
  return [sum(window) / len(window) for window in windows]


def _ticks(low: float, high: float, target: int = 4) -> list[float]:
  """Round tick values between low and high."""
  rough = (high - low) / target
  unit = 10 ** math.floor(math.log10(rough))
  step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
  first = math.ceil(low / step - 1e-9)
  return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _path(kind: str, points: Sequence[tuple[float, float]]) -> str:
  line = ' '.join(f'{"L" if index else "M"}{x:.1f},{y:.1f}' for index, (x, y) in enumerate(points))
  return f'<path class="{kind}" d="{line}"/>'


def _number(value: float) -> str:
  if abs(value) >= 10_000:
    return f'{value / 1000:.0f}k'
  if abs(value) >= 1000:
    return f'{value:.0f}'
  return f'{value:.3g}'
