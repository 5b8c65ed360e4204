"""``jaxgen finetune``."""

import sys

from jaxgen.flags import shared


def add(commands) -> None:
  """Adds the command."""
  parser = shared.command(commands, 'finetune', _finetune, 'fine-tune a published model on your '
                          'own images, or go on with the run that the workdir holds',
                          overridable=lambda args: True)
  parser.add_argument('--base', required=True, metavar='PATH',
                      help='a published pipeline, its folder or owner/name on the hub')
  parser.add_argument('--data', required=True, metavar='PATH', help='captioned images, or targets '
                      'with controls, as other trainers have them')
  parser.add_argument('--workdir', required=True, metavar='DIR')
  what = parser.add_mutually_exclusive_group()
  what.add_argument('--lora', type=int, default=16, metavar='RANK',
                    help='adapters of this rank train (16)')
  what.add_argument('--full', action='store_true', help='the whole denoiser trains')
  parser.add_argument('--text-lora', type=int, default=0, metavar='RANK',
                      help='adapters of the text towers train too; they stay as they are unless '
                      'given')
  parser.add_argument('--size', type=int, default=0, metavar='N',
                      help='images have about N x N pixels; those of the base unless given')
  parser.add_argument('--steps', type=int, default=1000, dest='of_run', metavar='N')
  parser.add_argument('--validate', default='', metavar='FILE', help='prompts, one in each line, '
                      'or a job file (.json), to draw at each save; the first of the data unless '
                      'given')
  parser.add_argument('--merge', action='store_true',
                      help='also write a whole pipeline with the adapters in its kernels')
  parser.add_argument('--push-to', default='', metavar='OWNER/NAME',
                      help='upload the result to the Hugging Face hub')
  parser.add_argument('--stopped-code', type=int, default=0, metavar='CODE',
                      help='exit code after SIGTERM')


def _finetune(args) -> None:
  from etils import epath
  from jaxgen.finetuning import commands
  from jaxgen.operations import lock
  wishes = commands.Wishes(
      rank=0 if args.full else args.lora, text_rank=args.text_lora, size=args.size,
      steps=args.of_run, validate=args.validate, merge=args.merge, push_to=args.push_to,
      overrides=args.overrides)
  with lock.held(epath.Path(args.workdir)):  # the caches are written before the training begins
    done = commands.finetune(args.base, args.data, args.workdir, wishes)
  if not done:
    sys.exit(args.stopped_code)
