"""``jaxgen report``."""

from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'report', _report,
                          'write report.html and summary.json, or the table of an ablation')
  parser.add_argument('--workdir', required=True, metavar='DIR',
                      help='a run, or a folder of runs that follow one another')
  parser.add_argument('--against', default='', metavar='DIR', help='another run: write both side '
                      'by side into against_NAME.html instead')


def _report(args) -> None:
  if args.against:
    from jaxgen.evaluation.side_by_side import write_comparison
    print(write_comparison(args.workdir, args.against))
    return
  from jaxgen.evaluation import ablation
  from jaxgen.evaluation.report import write_report
  write = ablation.write_table if ablation.seeds(args.workdir) else write_report
  print(write(args.workdir))
