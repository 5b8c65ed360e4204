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
      an unknown topology, a compiler that is not installed, a file that cannot be written.
  """
  validate(config)
  hardware, file = parse(topology), epath.Path(json_file)
  if json_file:
    _make_folder(file)  # before minutes of compiling
  if tries:
    found = search.search(config, hardware, tries)
    print(search.to_text(found))
    result = found[0][1]
  else:
    result = make_plan(config, hardware)
    print(report.to_text(result))
  if json_file:
    file.write_text(json.dumps(report.to_json(result), indent=2) + '\n')
  if not result.fits:
    raise user_error('--topology', topology, report.shortfall(result))


def _make_folder(file: epath.Path) -> None:
  try:
    file.parent.mkdir(parents=True, exist_ok=True)
  except OSError as error:
    raise user_error('--json', str(file), f'its folder cannot be made: {error.strerror}') from error
