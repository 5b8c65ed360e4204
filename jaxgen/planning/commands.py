"""The command ``jaxgen plan``."""

import json

from etils import epath
from ml_collections import ConfigDict

from jaxgen.config import validate
from jaxgen.core.errors import user_error
from jaxgen.planning import report
from jaxgen.planning import search
from jaxgen.planning.plan import make_plan
from jaxgen.planning.topology import parse


def plan(config: ConfigDict, topology: str, *, json_file: str = '', tries: int = 0) -> None:
  """Prints what the train step of a config takes on hardware that need not be there.

  Args:
    config: of the run.
    topology: its name, see ``topology.parse``.
    json_file: where the numbers go as well; empty for nowhere.
    tries: look for better settings and compile so many; 0 plans the config as it is.

  Raises:
    UserError: the step does not fit; says by how much and what would help. Or a broken config,
      an unknown topology, a compiler that is not installed.
  """
  validate(config)
  hardware = parse(topology)
  if tries:
    found = search.search(config, hardware, tries)
    print(search.to_text(found))
    result = found[0][1]
  else:
    result = make_plan(config, hardware)
    print(report.to_text(result))
  if json_file:
    epath.Path(json_file).write_text(json.dumps(report.to_json(result), indent=2) + '\n')
  if not result.fits:
    raise user_error('--topology', topology, report.shortfall(result))
