"""Parses the HLO text of a compiled program: computations, loops and their trip counts."""

import dataclasses
import re
from collections.abc import Iterator

WIDTHS = {'pred': 1, 's4': 0.5, 'u4': 0.5, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2,
          'f16': 2, 's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8, 'c64': 8}
_HEADER = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{$')
_LINE = re.compile(r'\s+(ROOT )?%?([\w.\-]+) = (.*)$')
_SHAPE = re.compile(r'\b([a-z]+\d*\w*)\[([\d,]*)\]')
_OPERAND = re.compile(r'%?([\w.\-]+)(?:, |$)')
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_CALLED = re.compile(r'(?:calls|to_apply|branch_computations|true_computation|'
                     r'false_computation)=(?:\{([^}]*)\}|(%?[\w.\-]+))')


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One HLO instruction, a line of the program.

  Attributes:
    name: name of its result.
    type: type of its result, as text.
    opcode: the operation.
    operands: names of its operands; for a constant, the text between the parentheses.
    attributes: everything after the operands.
    is_root: whether it is the result of its computation.
  """

  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  def attribute(self, name: str) -> str:
    """The value of the attribute ``name`` as text; an empty string if it is missing."""
    match = re.search(rf'\b{name}=%?("[^"]*"|\{{.*?\}}(?=, |$)|[^,\s]+)', self.attributes)
    return match[1] if match else ''

  def called(self) -> tuple[str, ...]:
    """Computations that this instruction calls; loop bodies are not among them."""
    if self.opcode not in ('fusion', 'call', 'conditional', 'async-start'):
      return ()
    return tuple(name.strip('% ') for match in _CALLED.finditer(self.attributes)
                 for name in (match[1] or match[2]).split(','))


class Module:
  """A parsed program: its computations by name."""

  def __init__(self, text: str):
    """Parses the output of ``jax.stages.Compiled.as_text``."""
    self.entry = ''
    self.computations: dict[str, dict[str, Instruction]] = {}
    self._read(text)

  def walk(self, name: str, times: int = 1) -> Iterator[tuple[str, Instruction, int]]:
    """Yields every executed instruction from ``name`` on: ``(computation, instruction, times)``.

    Loop bodies count as often as their trip count (once if it is unknown), and every branch of a
    conditional counts once.
    """
    for instruction in self.computations[name].values():
      yield name, instruction, times
      turns, called = 1, instruction.called()
      if instruction.opcode == 'while':
        turns, called = self.trips(name, instruction) or 1, (instruction.attribute('body'),)
      for other in called:
        yield from self.walk(other, times * turns)

  def trips(self, computation: str, loop: Instruction) -> int | None:
    """Trip count of a loop; None if it cannot be determined.

    GPU and CPU programs record it, except for peeled loops with nested loops. Those, and loops of
    TPU programs, compare a counter with a constant. The counter's start and stride are read from
    the program, because peeled and unrolled loops do not count 0, 1, 2.
    """
    known = _KNOWN_TRIPS.search(loop.attributes)
    if known:
      return int(known[1])
    condition = self.computations[loop.attribute('condition')]
    root, operands = self._operation(condition, _root(condition))
    if root.opcode != 'compare' or root.attribute('direction') != 'LT':
      return None
    counter, limit = operands
    end = self._constant(condition, limit)
    if end is None or counter is None or counter.opcode != 'get-tuple-element':
      return None
    index = int(counter.attribute('index'))
    start = self._start(computation, loop, index)
    return max(1, -(-(end - start) // self._stride(loop, index)))

  def _start(self, computation: str, loop: Instruction, index: int) -> int:
    lines = self.computations[computation]
    carried = lines.get(loop.operands[0])
    if carried is None or carried.opcode != 'tuple':
      return 0
    return self._constant(lines, lines.get(carried.operands[index])) or 0

  def _stride(self, loop: Instruction, index: int) -> int:
    lines = self.computations[loop.attribute('body')]
    root = _root(lines)
    step = lines.get(root.operands[index]) if root.opcode == 'tuple' else None
    if step is None:
      return 1
    step, operands = self._operation(lines, step)
    if step.opcode != 'add':
      return 1
    strides = [self._constant(lines, line) for line in operands]
    return next((stride for stride in strides if stride), 1)

  def _operation(self, lines: dict[str, Instruction], line: Instruction
                 ) -> tuple[Instruction, list[Instruction | None]]:
    """The final operation of an instruction or fusion, and its operands."""
    if line.opcode != 'fusion':
      return line, [lines.get(name) for name in line.operands]
    inner = self.computations[line.called()[0]]
    root, given = _root(inner), [lines.get(name) for name in line.operands]
    operands = [inner.get(name) for name in root.operands]
    return root, [given[int(operand.operands[0])]
                  if operand is not None and operand.opcode == 'parameter' else operand
                  for operand in operands]

  def _constant(self, lines: dict[str, Instruction], line: Instruction | None) -> int | None:
    while line is not None and line.opcode in ('copy', 'bitcast', 'convert'):
      line = lines.get(line.operands[0])
    if line is None or line.opcode != 'constant':
      return None
    value = ''.join(line.operands)
    return int(value) if re.fullmatch(r'-?\d+', value) else None

  def _read(self, text: str) -> None:
    lines: dict[str, Instruction] = {}
    for row in text.splitlines():
      header = _HEADER.match(row)
      if header:
        lines = self.computations.setdefault(header[2], {})
        self.entry = header[2] if header[1] else self.entry
        continue
      line = _LINE.match(row)
      if line:
        lines[line[2]] = _instruction(bool(line[1]), line[2], line[3])


def _root(lines: dict[str, Instruction]) -> Instruction:
  return next(line for line in lines.values() if line.is_root)


def size_of(text: str) -> float:
  """Bytes of an array type, or of all arrays in a tuple type."""
  return sum(_array_bytes(*match.groups()) for match in _SHAPE.finditer(text))


def arrays_of(text: str) -> list[float]:
  """Bytes of each array in a type."""
  return [_array_bytes(*match.groups()) for match in _SHAPE.finditer(text)]


def _array_bytes(kind: str, dimensions: str) -> float:
  count = 1
  for size in dimensions.split(',') if dimensions else ():
    count *= int(size)
  return count * (1 if kind.startswith('f8') else WIDTHS.get(kind, 0))


def _instruction(is_root: bool, name: str, rest: str) -> Instruction:
  """Parses ``type opcode(operands), attributes``; types and operands may contain brackets."""
  cut = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
  kind, rest = rest[:cut], rest[cut:].lstrip()
  start = rest.index('(')
  end = _closing(rest, start)
  operands = re.sub(r'/\*.*?\*/', '', rest[start + 1:end])
  names = tuple(match[1] for match in _OPERAND.finditer(operands))
  return Instruction(name, kind, rest[:start], names, rest[end + 1:].lstrip(', '), is_root)


def _closing(text: str, start: int) -> int:
  """Index of the parenthesis that matches the one at ``start``."""
  depth = 0
  for match in re.finditer(r'[()]', text[start:]):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return start + match.start()
  return len(text) - 1
