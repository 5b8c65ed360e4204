"""config.json of transformers' models, completed by transformers' own config classes.

Defaults, aliases and the spellings of older versions are for these classes to know. The tables
read what they make of a file, so every field is there, under its present name.
"""

import copy
from collections.abc import Mapping
from typing import Any

from jaxgen.core.errors import user_error


def completed(theirs: Mapping[str, Any], where: str) -> dict[str, Any]:
  """Every field of a config, and of the configs within it.

  Args:
    theirs: parsed config.json; its ``model_type`` names the class.
    where: file named in errors.

  Raises:
    UserError: values that the class refuses.
  """
  from transformers.models.auto.configuration_auto import CONFIG_MAPPING  # slow to import
  kind = CONFIG_MAPPING[theirs['model_type']]
  try:
    return kind.from_dict(copy.deepcopy(dict(theirs))).to_dict()
  except Exception as error:  # every class has checks of its own, and errors of its own
    raise user_error(where, None, f'is no config that {kind.__name__} of transformers takes '
                     f'({" ".join(str(error).split())[:200]}); mend that field') from error
