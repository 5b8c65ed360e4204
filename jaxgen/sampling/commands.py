"""The command ``jaxgen sample``: images of requests, and answers to dialogues."""

import dataclasses
import os
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxgen.checkpoints.weights import newest_step
from jaxgen.core.errors import user_error
from jaxgen.core.files import check_place
from jaxgen.core.texts import decoded
from jaxgen.core.texts import lines_of
from jaxgen.data.examples import ExampleMaker
from jaxgen.data.kept_tokenizers import with_kept
from jaxgen.data.sample import Part
from jaxgen.sampling import jobs
from jaxgen.sampling.ahead import compiling
from jaxgen.sampling.dialogues import AnswerFolder
from jaxgen.sampling.dialogues import read_dialogue
from jaxgen.sampling.dialogues import RECORD
from jaxgen.sampling.interleaved import check
from jaxgen.sampling.interleaved import Dialogue
from jaxgen.sampling.interleaved import ENDED
from jaxgen.sampling.interleaved import Options
from jaxgen.sampling.load import load_run
from jaxgen.sampling.load import Origin
from jaxgen.sampling.load import run_config
from jaxgen.sampling.reading import check_writes
from jaxgen.sampling.request import check_fits
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import make_requests
from jaxgen.sharding.mesh import use_compilation_cache
from jaxgen.systems.registry import make_system


def sample(open_origin: Callable[[], Origin], out: str, *, prompts: Sequence[str],
           prompts_file: str | None, job: str, given: Mapping[str, Sequence[str]], size: str,
           steps: int, **shared: Any) -> None:
  """Draws requests and prints the paths of the PNG files. All that can be said before the weights
  are read, which takes long, is said before.

  Args:
    open_origin: finds what is drawn from.
    out: folder of the results.
    prompts, prompts_file: texts, and a file with one in each line, if any.
    job: file of requests in place of texts, '' for none.
    given: role -> files of images, for every prompt.
    size: as ``jobs.parse_size`` reads it.
    steps: of the solver; 0 takes the config's.
    **shared: of all requests: ``outputs``, ``task``, ``seed``, ``guidance``, ``image_guidance``.

  Raises:
    UserError: nothing or too much to draw, missing files, or a request that the system cannot draw;
      or what ``open_origin`` raises.
  """
  prompts = [*prompts, *(_lines(prompts_file) if prompts_file else [])]
  if bool(prompts) == bool(job):
    raise user_error('--prompt', None, 'give at least one --prompt, or a --prompts-file; or else a '
                     '--job')
  shared['size'] = jobs.parse_size(size)
  images = {role: [jobs.existing(path, f'--{role}') for path in paths]
            for role, paths in given.items()}
  if job and any(images.values()):
    raise user_error('--job', job, 'its requests name their images; drop the other flags')
  check_place(out)
  origin = open_origin()
  config = origin.config
  system = make_system(config)
  requests = (jobs.read_job(job, config, factor=system.layout.latent.factor, **shared) if job
              else make_requests(config, prompts, **images, **shared))
  use_compilation_cache()
  with compiling(system, origin.shapes, requests, config=config, steps=steps,
                 maker=ExampleMaker.of(config, system.layout)) as parties:
    run = origin.load()
  drawn = run.draw(requests, parties=parties, progress=jobs.progress())
  for path in jobs.save_results(requests, drawn, out):
    print(path)


def read_requests(path: str, config: ConfigDict, where: str) -> list[Request]:
  """The requests of a job file, whose name ends in .json, or of a file with a prompt in each line.

  Args:
    path: of the file.
    config: of the run.
    where: flag that names it, for errors.

  Raises:
    UserError: no such file, nothing in it, or a request that the system cannot draw.
  """
  layout = make_system(config).layout
  requests = (jobs.read_job(path, config, factor=layout.latent.factor, flag=where)
              if path.endswith('.json') else make_requests(config, _lines(path, where)))
  if not requests:
    raise user_error(where, path, 'holds no prompt; write one in each line')
  check_fits(requests, layout, config.data.clean_roles)
  return requests


def answer(workdir: str, out: str, *, file: str, size: str, seed: int, weights: str, preset: str,
           **options: Any) -> None:
  """Answers a dialogue; prints its texts and the paths of its images as they come.

  A call that was cut short is gone on with by the same call, to the same answer.

  Args:
    workdir: of a run.
    out: folder of the answer.
    file: the dialogue.
    size: as ``jobs.parse_size`` reads it.
    seed: of texts and images.
    weights, preset: as ``load_run`` takes them.
    **options: of ``interleaved.Options``.

  Raises:
    UserError: a dialogue that has nothing to answer or that the run cannot answer, missing files,
      no such run, or a folder with another answer.
  """
  dialogue = Dialogue.of(read_dialogue(file), seed=seed, size=jobs.parse_size(size))
  how = Options(**options)
  if os.path.realpath(file) == os.path.realpath(os.path.join(out, RECORD)):
    raise user_error('--out', out, 'the answer would replace the dialogue; choose another folder')
  check_place(out)
  config = with_kept(run_config(workdir, preset), workdir)
  system = make_system(config)
  check_writes(system, config)
  check(system, [dialogue], ExampleMaker.of(config, system.layout), config, how)
  folder = AnswerFolder(out, dict(
      workdir=os.path.abspath(workdir), checkpoint=newest_step(workdir), weights=weights,
      preset=preset, seed=seed, size=size, **dataclasses.asdict(how)))
  dialogue = folder.open(dialogue)
  for index, part in enumerate(dialogue.answer, start=dialogue.given):
    _tell(folder, index, part)
  if not dialogue.ended:
    for event in load_run(workdir, weights, preset).converse([dialogue], how):
      dialogue = event.dialogue
      folder.save(dialogue)
      if event.part:
        _tell(folder, len(dialogue.sample.parts) - 1, event.part)
  print(ENDED.get(dialogue.ended, dialogue.ended), folder.page, sep='\n')


def _tell(folder: AnswerFolder, index: int, part: Part) -> None:
  print(folder.image(index, part) if part.is_image else f'assistant: {part.text}', flush=True)


def _lines(path: str, where: str = '--prompts-file') -> list[str]:
  """The texts of a file of prompts."""
  text = decoded(jobs.existing_file(path, where).read_bytes(), f'{where} = {path!r}')
  return [line.strip() for line in lines_of(text) if line.strip()]
