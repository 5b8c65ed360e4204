"""The command ``jaxgen sample``."""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from jaxgen.core.errors import user_error
from jaxgen.core.files import check_place
from jaxgen.core.texts import decoded
from jaxgen.core.texts import lines_of
from jaxgen.sampling import jobs
from jaxgen.sampling.load import Origin
from jaxgen.sampling.request import check_fits
from jaxgen.sampling.request import Request
from jaxgen.sampling.request import make_requests
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
  layout = make_system(config).layout
  requests = (jobs.read_job(job, config, factor=layout.latent.factor, **shared) if job
              else make_requests(config, prompts, **images, **shared))
  check_fits(requests, layout, config.data.clean_roles)
  drawn = origin.load().draw(requests, steps=steps, progress=jobs.progress())
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
  requests = (jobs.read_job(path, config, factor=layout.latent.factor) if path.endswith('.json')
              else make_requests(config, _lines(path, where)))
  if not requests:
    raise user_error(where, path, 'holds no prompt; write one in each line')
  check_fits(requests, layout, config.data.clean_roles)
  return requests


def _lines(path: str, where: str = '--prompts-file') -> list[str]:
  """The texts of a file of prompts."""
  text = decoded(jobs.existing_file(path, where).read_bytes(), f'{where} = {path!r}')
  return [line.strip() for line in lines_of(text) if line.strip()]
