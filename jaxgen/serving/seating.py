"""Which of the requests that wait are drawn together, and by which program."""

import dataclasses
import math
from collections.abc import Iterator
from collections.abc import Sequence

from jaxgen.sampling.batching import place
from jaxgen.serving.drawing import Job
from jaxgen.serving.kinds import Kind


@dataclasses.dataclass(frozen=True)
class Seats:
  """A batch to come.

  Attributes:
    kind: number of the program's kind.
    rows: numbers of the jobs of each row.
  """

  kind: int
  rows: list[list[int]]


class Seating:
  """Chooses batches by the time that a step of each program takes.

  Args:
    kinds: of programs, each at least as large as the one before.
    most: rows of the largest programs.
    ways: devices that rows are spread over.

  Attributes:
    rows: numbers of rows that are compiled, multiples of ``ways``, each four times the one before.
    seconds: of a step, by kind and rows; until it is measured, rows cost nothing and kinds alike.
  """

  def __init__(self, kinds: Sequence[Kind], most: int, ways: int):
    self._kinds = kinds
    self.rows, most = [ways], math.ceil(most / ways) * ways
    while self.rows[-1] < most:
      self.rows.append(min(4 * self.rows[-1], most))
    self.seconds = {(kind, rows): 1.0 for kind in range(len(kinds)) for rows in self.rows}

  def compiled(self, count: int) -> int:
    """The least number of rows that is compiled and holds so many."""
    return next(rows for rows in self.rows if count <= rows)

  def choose(self, jobs: Sequence[Job]) -> Seats:
    """The first job, and what goes with it in their order, as far as there is room.

    Of the programs that hold the first job it is the one that draws the most requests in a second.
    Where a step's time grows with its rows, rows that would be empty are not paid for; where a long
    row takes little more time than a short one, short requests are put together in long rows.
    """
    def rate(seats: Seats) -> float:
      return sum(map(len, seats.rows)) / self.seconds[seats.kind, self.compiled(len(seats.rows))]

    return max(self._possible(jobs), key=rate)

  def _possible(self, jobs: Sequence[Job]) -> Iterator[Seats]:
    """What each program would draw."""
    for number in range(jobs[0].kind, len(self._kinds)):
      kind = self._kinds[number]
      chosen = [index for index, job in enumerate(jobs) if job.kind <= number]
      examples = [jobs[index].found.padded(kind.branches).examples for index in chosen]
      # In the first row with room for it: further rows change nothing about those before.
      rows = place(examples, kind.shape, self.rows[-1])
      for count in self.rows:
        yield Seats(number, [[chosen[index] for index in members] for members in rows[:count]])
