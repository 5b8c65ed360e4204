"""What ``jaxgen curate`` does: claims its folder, makes the chunks that are left, and reports."""

import json

from jaxgen.core.errors import user_error
from jaxgen.core.files import check_place
from jaxgen.core.files import read_json
from jaxgen.core.files import there
from jaxgen.core.files import write_text
from jaxgen.curation.engine import Job
from jaxgen.curation.engine import Worker
from jaxgen.curation.executors import executor
from jaxgen.curation.report import write_report
from jaxgen.curation.tally import Tally
from jaxgen.operations import lock


def curate(job: Job, engine: str = 'local', gpus: int = 0) -> Tally:
  """Runs a job, or goes on with it, and writes ``info.json`` and ``report.html``.

  Args:
    job: what to do.
    engine: ``local`` or ``ray[:ADDRESS]``, see ``executor``.
    gpus: of each worker of Ray that runs a model.

  Returns:
    Counts and examples of the whole run.

  Raises:
    UserError: the folder cannot be reached or holds something else, another process works there,
      the recipe is wrong, or a limit of a model is spent.
  """
  there(job.out)  # a bucket that cannot be reached is named first
  execute, worker = executor(engine, gpus), Worker(job)
  check_place(job.out)
  _claim(worker)
  with lock.held(worker.out, lock.CURATION, flag='--out'):
    for phase, count in enumerate(worker.phases):
      execute(worker, phase, worker.left(phase), count)
    tally = write_report(worker)
    worker.clean()
  for name, stage in zip(worker.names, tally.stages):
    dropped = ', '.join(f'{reason} {count}' for reason, count in sorted(stage.dropped.items()))
    print(f'{name:24} {stage.entered:>9} -> {stage.left:<9} {dropped}')
  print(f'{job.out}: {sum(tally.licences.values())} samples; see {worker.out / "report.html"}')
  return tally


def _claim(worker: Worker) -> None:
  """Makes the folder of a run, or checks that what is there is the same run."""
  file, described = worker.out / 'recipe.json', json.loads(json.dumps(worker.described()))
  if not file.exists():
    if worker.out.exists() and any(worker.out.iterdir()):
      raise user_error('--out', worker.job.out, 'not empty, and not of a run of jaxgen curate; '
                       'choose another one')
    write_text(file, json.dumps(described, indent=2))
    return
  kept = read_json(file, 'remove the folder and run the recipe again')
  for name in described:
    if kept.get(name) != described[name]:
      raise user_error('--out', worker.job.out, f'holds a run with another {name}; choose another '
                       'folder, or take the recipe and the inputs as they were')
