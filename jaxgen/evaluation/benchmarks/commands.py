"""The command ``jaxgen evaluate --benchmark``: draws a benchmark, scores it, writes its page."""

import dataclasses
import hashlib
import json
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from etils import epath

from jaxgen.core.errors import user_error
from jaxgen.core.files import check_place
from jaxgen.core.files import read_json
from jaxgen.evaluation import rubrics
from jaxgen.evaluation.benchmarks import detections
from jaxgen.evaluation.benchmarks import draw
from jaxgen.evaluation.benchmarks import leaks
from jaxgen.evaluation.benchmarks import pairs
from jaxgen.evaluation.benchmarks import plugins
from jaxgen.evaluation.benchmarks import prompts
from jaxgen.evaluation.benchmarks import scoring
from jaxgen.evaluation.benchmarks.base import Benchmark
from jaxgen.evaluation.benchmarks.base import Item
from jaxgen.evaluation.benchmarks.base import Scored
from jaxgen.evaluation.benchmarks.leaks import digest
from jaxgen.evaluation.benchmarks.pages import write_page
from jaxgen.evaluation.benchmarks.registry import benchmark as find_benchmark
from jaxgen.evaluation.benchmarks.registry import read_items
from jaxgen.evaluation.judge import Judge
from jaxgen.sampling.interleaved import Options
from jaxgen.sampling.jobs import parse_size
from jaxgen.sampling.jobs import progress
from jaxgen.sampling.load import Origin

INPUTS = 'inputs'  # folder of images that come inside of tables


@dataclasses.dataclass(frozen=True)
class Judging:
  """What scores a benchmark.

  Attributes:
    model: of the judge; '' is none.
    url: of its endpoint; '' is the one of the environment.
    rubrics: folder whose files are taken before ours.
    replay: whether replies on disk are read only.
    concurrency: calls at once.
    options: of each call, as JSON.
    prices: dollars for a million tokens read and written, as 2.5:10; '' does not count costs.
    detector: command of GenEval's detector; '' takes detections that are on disk.
    towers: ``dino``, ``clip`` -> folder or hub id, for DreamBench and storyboards.
    masks: command that finds foregrounds for storyboards; '' compares whole images.
    embeddings: JSON file of DreamBench's scores: key of an item -> name -> cosine.
    against: of OpenING, folder of another model's documents, which are compared with those here.
  """

  model: str = ''
  url: str = ''
  rubrics: str = ''
  replay: bool = False
  concurrency: int = 16
  options: str = ''
  prices: str = ''
  detector: str = ''
  towers: Mapping[str, str] = dataclasses.field(default_factory=dict)
  masks: str = ''
  embeddings: str = ''
  against: str = ''

  def asks(self, folder: epath.Path, file: str) -> Judge:
    """The judge whose replies are kept in a file of the folder."""
    return Judge(self.model, folder / file, url=self.url, replay=self.replay,
                 concurrency=self.concurrency, options=_options(self.options))


def evaluate_benchmark(name: str, data: str, out: str, *,
                       open_origin: Callable[[], Origin] | None = None, size: str = '',
                       limit: int = 0, seed: int = 0, steps: int = 0,
                       guidance: float | None = None, image_guidance: float | None = None,
                       share: tuple[int, int] = (0, 1), prompts_file: str = '', rewrite: str = '',
                       rewrite_rubric: str = 'rewrite', judging: Judging = Judging(),
                       allow_leaks: bool = False, answers: Mapping[str, Any] | None = None
                       ) -> dict[str, Any] | None:
  """Draws what is not there yet, and scores it where something is given to score it with.

  Weights are read last, which takes long: before it, all files are opened, every request is checked
  against the models, and what is to score is there.

  Args:
    name: of the benchmark.
    data: folder of its files.
    out: folder of the results.
    open_origin: finds what draws; None scores what is there.
    size: as ``parse_size`` reads it.
    limit: items of each group; 0 is all.
    seed: of the noise.
    steps, guidance, image_guidance: as ``jaxgen sample`` takes them.
    share: (process, processes) that split the items among them.
    prompts_file: wordings in place of the prompts, see ``prompts.from_file``.
    rewrite: model that rewrites the prompts, by ``rewrite_rubric``.
    judging: what scores.
    allow_leaks: draws although the run was trained on items of the benchmark; ``drawn.json`` says
      how many were found.
    answers: of documents, fields of ``interleaved.Options`` besides steps and guidance.

  Returns:
    The contents of ``scores.json``; None where nothing was scored.

  Raises:
    UserError: missing files, an unknown name, items that cannot be drawn, images that were drawn
      otherwise, training data that hold items of the benchmark, or a judge that refuses.
  """
  check_place(out)
  benchmark, root = find_benchmark(name), epath.Path(out)
  _check_scoring(benchmark, root, judging)
  items = read_items(benchmark, data, str(root / INPUTS))
  draw.check_files(items)
  chosen = draw.numbered(items, limit)
  chosen = _worded(chosen, root, prompts_file, rewrite, rewrite_rubric, judging)
  if open_origin:
    origin = open_origin()
    workdir = origin.named.get('workdir')
    leaked = leaks.check_run(workdir, name, items, allow_leaks) if workdir else None
    settings = draw.Settings(seed, steps, parse_size(size), guidance, image_guidance)
    record = dict(benchmark=name, prompts=digest(items), leaks=leaked,
                  wordings=_wordings(prompts_file, rewrite, rewrite_rubric),
                  **dataclasses.asdict(settings))
    _draw(benchmark, chosen, out, origin, record, settings, share, answers or {})
  if judging.against:
    _compare(benchmark, [item for _, item in chosen], out, judging)
    return None
  return _score(benchmark, [item for _, item in chosen], out, judging)


def _draw(benchmark: Benchmark, items: Sequence[tuple[int, Item]], out: str, origin: Origin,
          record: Mapping[str, Any], settings: draw.Settings, share: tuple[int, int],
          answers: Mapping[str, Any]) -> None:
  config, own = origin.config, draw.shared_out(items, share)
  record = dict(record, **origin.named, sampling=json.loads(config.sampling.to_json()))
  options = None
  if benchmark.dialogue:
    options = Options(**answers, steps=settings.steps, guidance=settings.guidance,
                      image_guidance=settings.image_guidance)
    record |= dataclasses.asdict(options)
  elif answers:
    raise user_error(f'--{next(iter(answers)).replace("_", "-")}', next(iter(answers.values())),
                     f'is of documents, and {benchmark.name} has none; leave it out')
  draw.check_drawable(config, own, settings, options)
  draw.check_record(out, record)
  run = origin.load()
  if options:
    done = draw.draw_documents(run, benchmark, items, out, settings, options, share=share,
                               progress=progress(benchmark.name))
  else:
    done = draw.draw(run, items, out, settings, share=share, progress=progress(benchmark.name))
  draw.write_beside(benchmark, items, out)
  print(f'{benchmark.name}: {done} drawn, {len(items)} prompts in {out}')


def _check_scoring(benchmark: Benchmark, root: epath.Path, judging: Judging) -> None:
  """Raises a ``UserError`` for what could not score the images once they are drawn."""
  if judging.against and (benchmark.name != 'opening' or not judging.model):
    raise user_error('--against', judging.against, 'is for --benchmark=opening with a --judge')
  if judging.model and not benchmark.ask:
    raise user_error('--judge', judging.model, f'{benchmark.name} is scored by {benchmark.scores}, '
                     'not by a judge; leave it out')
  if judging.towers and not benchmark.embed:
    raise user_error('--dino or --clip', None, f'{benchmark.name} is not scored by features; leave '
                     'it out')
  for flag, given, scores in (
      ('--detector', judging.detector, benchmark.scores == 'detections'),
      ('--embeddings', judging.embeddings, benchmark.scores == 'embeddings'),
      ('--masks', judging.masks, benchmark.masked)):
    if given and not scores:
      raise user_error(flag, given, f'does not score {benchmark.name}; leave it out')
  if judging.masks and not judging.towers:
    raise user_error('--masks', judging.masks, 'is for features; give --dino or --clip too')
  if judging.model:
    judging.asks(root, scoring.REPLIES).check()
  if judging.rubrics:
    rubrics.check_folder(judging.rubrics)
  if judging.prices:
    _prices(judging.prices)
  if judging.embeddings:
    read_json(judging.embeddings, 'write it again')
  for flag, command in (('--detector', judging.detector), ('--masks', judging.masks)):
    if command:
      plugins.check(command, flag)


def _compare(benchmark: Benchmark, items: Sequence[Item], out: str, judging: Judging) -> None:
  judge = judging.asks(epath.Path(out), pairs.REPLIES)
  print('\n'.join(pairs.lines_of(*pairs.battles(items, out, judging.against, judge,
                                                judging.rubrics))))


def _score(benchmark: Benchmark, items: Sequence[Item], out: str, judging: Judging
           ) -> dict[str, Any] | None:
  scored = _scored(benchmark, items, out, judging)
  if scored is None:
    return None
  file = epath.Path(out) / draw.RECORD
  drawn = read_json(file, 'draw again into another --out') if file.exists() else {}
  result = scoring.write_scores(benchmark, items, scored, out, drawn)
  print('\n'.join(scoring.lines_of(result)))
  print(write_page(result, out))
  return result


def _worded(items: Sequence[tuple[int, Item]], root: epath.Path, prompts_file: str, rewrite: str,
            rubric: str, judging: Judging) -> list[tuple[int, Item]]:
  if prompts_file and rewrite:
    raise user_error('--rewrite', rewrite, 'give either --rewrite or --prompts-file')
  own = [item for _, item in items]
  if prompts_file:
    own = prompts.from_file(own, prompts_file)
  if rewrite:
    writer = dataclasses.replace(judging, model=rewrite).asks(root, prompts.REPLIES)
    own = prompts.rewritten(own, str(root), writer, rubric)
  return [(number, item) for (number, _), item in zip(items, own, strict=True)]


def _wordings(prompts_file: str, rewrite: str, rubric: str) -> str:
  """Whose words are drawn."""
  if rewrite:
    return f'{rewrite} by {rubric}'
  if prompts_file:
    digest = hashlib.sha256(epath.Path(prompts_file).read_bytes()).hexdigest()[:16]
    return f'{prompts_file} ({digest})'
  return 'official'


def _scored(benchmark: Benchmark, items: Sequence[Item], out: str, judging: Judging
            ) -> Scored | None:
  """The scores by whatever the benchmark is scored by; None where that is not given."""
  if benchmark.scores == 'detections':
    there = (epath.Path(out) / detections.FILE).exists()
    return detections.detected(items, out, judging.detector) if judging.detector or there else None
  parts = []
  if judging.towers:
    parts.append(benchmark.embed(items, out, judging.towers, judging.masks))
  elif judging.embeddings and benchmark.scores == 'embeddings':
    parts.append(_embedded(items, judging.embeddings))
  if judging.model and benchmark.ask:
    parts.append(_judged(benchmark, items, out, judging))
  return scoring.together(parts) if parts else None


def _judged(benchmark: Benchmark, items: Sequence[Item], out: str, judging: Judging) -> Scored:
  prices = _prices(judging.prices) if judging.prices else []
  judge = judging.asks(epath.Path(out), scoring.REPLIES)
  scored = scoring.judged(benchmark, items, out, judge, rubrics=judging.rubrics,
                          progress=progress('judged'))
  if prices:
    scored.by['dollars'] = sum(map(operator.mul, scored.by['tokens'], prices)) / 1e6
  return scored


def _embedded(items: Sequence[Item], file: str) -> Scored:
  found = read_json(file, 'write it again')
  names = sorted({name for scores in found.values() for name in scores})
  scores = [{name: found.get(item.key, {}).get(name) for name in names} for item in items]
  missing = {item.key: 'no embedding' for item in items if item.key not in found}
  return Scored(scores, missing, dict(embeddings=file))


def _prices(text: str) -> list[float]:
  try:
    prices = [float(part) for part in text.split(':')]
  except ValueError:
    prices = []
  if len(prices) != 2 or not all(0 <= price < math.inf for price in prices):
    raise user_error('--judge-prices', text, 'write READ:WRITTEN, dollars for a million tokens, as '
                     '2.5:10')
  return prices


def _options(text: str) -> dict[str, Any]:
  if not text:
    return {}
  try:
    options = json.loads(text)
  except ValueError:
    options = None
  if not isinstance(options, dict):
    raise user_error('--judge-options', text, 'must be a JSON object, as \'{"temperature": 1}\'')
  return options
