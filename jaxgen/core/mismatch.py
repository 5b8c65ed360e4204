"""What does not fit between the named arrays at hand and those wanted, in words."""

from collections.abc import Mapping, Sequence

_SHOWN = 10  # names of each kind before the rest is only counted

Shape = tuple[int, ...]


def mismatch(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> str:
  """Lists missing, unknown and misshapen names; empty where all fit.

  Args:
    found: name -> shape at hand.
    wanted: name -> shape that the model needs.
  """
  return '; '.join(f'{len(names)} {kind}: {shorten(names)}'
                   for kind, names in mismatches(found, wanted).items() if names)


def mismatches(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> dict[str, list[str]]:
  """The names behind ``mismatch``: kind -> names, the misshapen with their shapes."""
  return {
      'missing': sorted(wanted.keys() - found.keys()),
      'unknown': sorted(found.keys() - wanted.keys()),
      'misshapen': [f'{name} {tuple(found[name])} (needs {tuple(wanted[name])})'
                    for name in sorted(found.keys() & wanted.keys())
                    if tuple(found[name]) != tuple(wanted[name])],
  }


def shorten(names: Sequence[str]) -> str:
  """The first names, and how many more there are."""
  more = len(names) - _SHOWN
  return ', '.join(names[:_SHOWN]) + (f' and {more} more' if more > 0 else '')
