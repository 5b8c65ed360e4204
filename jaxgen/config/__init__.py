"""Typed, locked configuration; does not touch devices, the environment or the network."""

from jaxgen.config.schema import base_config
from jaxgen.config.schema import lora
from jaxgen.config.schema import source
from jaxgen.config.load import from_json
from jaxgen.config.load import load_config
from jaxgen.config.load import overridden
from jaxgen.config.load import to_json
from jaxgen.config.validate import validate

__all__ = ['base_config', 'from_json', 'load_config', 'lora', 'overridden', 'source', 'to_json',
           'validate']
