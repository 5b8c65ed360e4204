"""Describes how a set of named arrays differs from the set that a model needs."""

from collections.abc import Mapping, Sequence

_SHOWN = 10  # names listed per kind; further ones are only counted

Shape = tuple[int, ...]


def mismatch(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> str:
  """Lists missing, unknown and misshapen names; an empty string if everything matches.

  Args:
    found: name -> shape of the array that was found.
    wanted: name -> shape that the model needs.
  """
  return '; '.join(f'{len(names)} {kind}: {shorten(names)}'
                   for kind, names in mismatches(found, wanted).items() if names)


def mismatches(found: Mapping[str, Shape], wanted: Mapping[str, Shape]) -> dict[str, list[str]]:
  """The names behind ``mismatch``: kind -> names; misshapen names come with both shapes."""
  return {
      'missing': sorted(wanted.keys() - found.keys()),
      'unknown': sorted(found.keys() - wanted.keys()),
      'misshapen': [f'{name} {tuple(found[name])} (needs {tuple(wanted[name])})'
                    for name in sorted(found.keys() & wanted.keys())
                    if tuple(found[name]) != tuple(wanted[name])],
  }


def shorten(names: Sequence[str]) -> str:
  """The first names, and the number of those left out."""
  more = len(names) - _SHOWN
  return ', '.join(names[:_SHOWN]) + (f' and {more} more' if more > 0 else '')
