"""Reads the text of a compiled program: its computations, its loops and how often they turn."""

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
  """One line of a program.

  Attributes:
    name: of its result.
    type: of its result, as text.
    opcode: what it does.
    operands: names of its operands; the text between the parentheses for a constant.
    attributes: everything behind the operands.
    is_root: whether it is the result of its computation.
  """

  name: str
  type: str
  opcode: str
  operands: tuple[str, ...]
  attributes: str
  is_root: bool

  def attribute(self, name: str) -> str:
    """The value of ``name=value`` as text; empty where there is none."""
    match = re.search(rf'\b{name}=%?("[^"]*"|\{{.*?\}}(?=, |$)|[^,\s]+)', self.attributes)
    return match[1] if match else ''

  def called(self) -> tuple[str, ...]:
    """Computations that run when this instruction does; loops apart."""
    if self.opcode not in ('fusion', 'call', 'conditional', 'async-start'):
      return ()
    return tuple(name.strip('% ') for match in _CALLED.finditer(self.attributes)
                 for name in (match[1] or match[2]).split(','))


class Module:
  """A program by its computations."""

  def __init__(self, text: str):
    """Reads what ``jax.stages.Compiled.as_text`` gives."""
    self.entry = ''
    self.computations: dict[str, dict[str, Instruction]] = {}
    self._read(text)

  def walk(self, name: str, times: int = 1) -> Iterator[tuple[str, Instruction, int]]:
    """Every instruction that runs, as ``(computation, instruction, how often)``, from ``name``.

    Bodies of loops count as often as they turn (once where that is not known), all branches of a
    conditional once.
    """
    for instruction in self.computations[name].values():
      yield name, instruction, times
      turns, called = 1, instruction.called()
      if instruction.opcode == 'while':
        turns, called = self.trips(name, instruction) or 1, (instruction.attribute('body'),)
      for other in called:
        yield from self.walk(other, times * turns)

  def trips(self, computation: str, loop: Instruction) -> int | None:
    """How often a loop turns; None where the program does not say.

    GPU and CPU programs carry the number, but for peeled loops that hold others. Those and the
    loops of TPUs compare a counter with a constant; the counter's start and stride are looked up,
    as peeled and unrolled loops do not count 0, 1, 2.
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
    """What an instruction or a fusion computes last, and from what."""
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
  """Bytes of an array type, or of all arrays of a tuple type."""
  return sum(_array_bytes(*match.groups()) for match in _SHAPE.finditer(text))


def arrays_of(text: str) -> list[float]:
  """Bytes of each array of a type."""
  return [_array_bytes(*match.groups()) for match in _SHAPE.finditer(text)]


def _array_bytes(kind: str, dimensions: str) -> float:
  count = 1
  for size in dimensions.split(',') if dimensions else ():
    count *= int(size)
  return count * (1 if kind.startswith('f8') else WIDTHS.get(kind, 0))


def _instruction(is_root: bool, name: str, rest: str) -> Instruction:
  """``type opcode(operands), attributes``; types and operands may hold brackets themselves."""
  cut = _closing(rest, 0) + 1 if rest.startswith('(') else rest.index(' ')
  kind, rest = rest[:cut], rest[cut:].lstrip()
  start = rest.index('(')
  end = _closing(rest, start)
  operands = re.sub(r'/\*.*?\*/', '', rest[start + 1:end])
  names = tuple(match[1] for match in _OPERAND.finditer(operands))
  return Instruction(name, kind, rest[:start], names, rest[end + 1:].lstrip(', '), is_root)


def _closing(text: str, start: int) -> int:
  """Index of the parenthesis that closes the one at ``start``."""
  depth = 0
  for match in re.finditer(r'[()]', text[start:]):
    depth += 1 if match[0] == '(' else -1
    if depth == 0:
      return start + match.start()
  return len(text) - 1
