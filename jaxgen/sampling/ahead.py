"""Programs that compile while weights are read: a first image waits for the longer of the two."""

import contextlib
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from ml_collections import ConfigDict

from jaxgen.core.types import Params
from jaxgen.data.examples import ExampleMaker
from jaxgen.sampling.generate import ALL_DEVICES
from jaxgen.sampling.generate import compile_for
from jaxgen.sampling.generate import Party
from jaxgen.sampling.generate import placed_shapes
from jaxgen.sampling.generate import planned
from jaxgen.sampling.request import Request
from jaxgen.sharding import partition
from jaxgen.sharding.mesh import make_mesh
from jaxgen.sharding.rules import with_changes
from jaxgen.systems.base import System


@contextlib.contextmanager
def compiling(system: System, shapes: Callable[[], Params], requests: Sequence[Request], *,
              maker: ExampleMaker, config: ConfigDict, steps: int = 0) -> Iterator[list[Party]]:
  """Compiles in a thread what ``generate`` needs first, while the body reads the weights.

  Args:
    system, requests, maker, config, steps: as ``generate`` takes them.
    shapes: tells shape and dtype of all parameters, as they will be read.

  Yields:
    Who is drawn with whom, for ``generate``.

  Raises:
    UserError: what ``generate`` would say of the requests, before the files of the weights are
      opened.
  """
  mesh = make_mesh(ALL_DEVICES)
  parties = planned(system, requests, maker, config, mesh, steps)
  placed = placed_shapes(system, shapes(), config, mesh)

  def work(party: Party) -> None:
    # What goes wrong here goes wrong in ``generate`` again, which tells it.
    with contextlib.suppress(Exception), partition.scope(mesh, with_changes(config.mesh.rules)):
      compile_for(system, placed, party.make(), party.sigmas, config, mesh)

  thread = threading.Thread(target=work, args=(parties[0],), daemon=True)
  thread.start()
  yield parties
  thread.join()  # not behind an error of the body, which is told at once
