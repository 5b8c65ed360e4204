"""The command ``jaxgen plan``."""

import json

from etils import epath
from ml_collections import ConfigDict

from jaxgen.config import validate
from jaxgen.core.errors import user_error
from jaxgen.core.files import check_place
from jaxgen.core.files import write_text
from jaxgen.planning import report
from jaxgen.planning import search
from jaxgen.planning.plan import make_plan
from jaxgen.planning.topology import parse


def plan(config: ConfigDict, topology: str, *, json_file: str = '', tries: int = 0) -> None:
  """Prints the memory, FLOPs and time of a config's train step on hardware that may be absent.

  Args:
    config: the run's config.
    topology: name of the hardware, see ``topology.parse``.
    json_file: file that also receives the numbers; '' for none.
    tries: number of settings to compile in a search for better ones; 0 plans the config as it is.

  Raises:
    UserError: the step does not fit; the message gives the excess and a remedy. Also a broken
      config, an unknown topology, a missing compiler, or a file that cannot be written.
  """
  validate(config)
  hardware = parse(topology)
  if json_file:
    check_place(epath.Path(json_file).parent)  # fail before minutes of compilation
  if tries:
    found = search.search(config, hardware, tries)
    print(search.to_text(found))
    result = found[0][1]
  else:
    result = make_plan(config, hardware)
    print(report.to_text(result))
  if json_file:
    write_text(json_file, json.dumps(report.to_json(result), indent=2) + '\n')
  if not result.fits:
    raise user_error('--topology', topology, report.shortfall(result))
