"""Weights from and to PyTorch: one name table per family, read in both directions."""

from typing import Any

__all__ = ['load_pretrained', 'save_pretrained']


def __getattr__(name: str) -> Any:
  """Imports the public functions on first use, so that the command line starts at once."""
  if name in __all__:
    from jaxgen.conversion import pretrained
    return getattr(pretrained, name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
