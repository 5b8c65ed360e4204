"""A pipeline of diffusers that draws photographs at 64 px, small enough for two CPU cores, and what
adapters for one subject have changed; launch/finetune_photos.sh calls both.

  python tools/photo_pipeline.py make --photos=PHOTOS.jsonl --subject=dog6 --out=DIR
  python tools/photo_pipeline.py measure --root=DIR

``make`` writes DIR/nothing, a FluxPipeline whose autoencoder has learnt the photographs (PyTorch, a
few minutes) and whose other weights are random; DIR/others, captioned photographs of other
subjects; DIR/one, those of the subject, whose captions name it by a word that is in no other; and
DIR/mixed, both, the subject's several times. ``measure`` draws the captions of ``one`` and
``others`` from DIR/base and from the run DIR/tuned, and compares with the photographs.
"""

import argparse
import json
import pathlib
import shutil
import sys
from collections.abc import Mapping
from collections.abc import Sequence

import numpy as np
from PIL import Image
from PIL import ImageOps

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

SIDE, RARE = 64, 'zwx'
CHANNELS = (16, 32, 64)  # of the autoencoder: four pixels along a latent, eight along a token
LATENT = 16
STEPS, GUIDANCE, SEED = 20, 1.5, 0  # of a drawing
SHIFT, TOKENS = 3.0, 96  # of the timesteps; of a prompt


def main() -> None:
  """Runs the command."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  commands = parser.add_subparsers(required=True)
  made = commands.add_parser('make')
  made.add_argument('--photos', type=pathlib.Path, required=True, metavar='FILE')
  made.add_argument('--subject', default='dog6')
  made.add_argument('--others', type=int, default=24, help='photographs of other subjects')
  made.add_argument('--repeats', type=int, default=3, help="of the subject's, among the others")
  made.add_argument('--steps', type=int, default=1500, help='of the autoencoder')
  made.add_argument('--out', type=pathlib.Path, required=True, metavar='DIR')
  made.set_defaults(run=make)
  measured = commands.add_parser('measure')
  measured.add_argument('--root', type=pathlib.Path, required=True, metavar='DIR')
  measured.set_defaults(run=measure)
  args = parser.parse_args()
  args.run(args)


def make(args: argparse.Namespace) -> None:
  """Writes the photographs and the pipeline."""
  records = [json.loads(line) for line in args.photos.read_text().splitlines()]
  one = [record for record in records if record['subject'] == args.subject]
  if not one:
    raise SystemExit(f'--subject={args.subject}: there are '
                     f'{sorted({record["subject"] for record in records})}')
  others = [record for record in records if record['subject'] not in (args.subject, None)]
  others = others[::max(1, len(others) // args.others)][:args.others]
  renamed = [record | {'caption': record['caption'].replace(
      record['subject_phrase'], f'a {RARE} {record["subject_class"]}')} for record in one]
  root, source = args.out, args.photos.parent
  for name, chosen, repeats in (('others', others, 1), ('one', renamed, 1), ('mixed', others, 1),
                                ('mixed', renamed, args.repeats)):
    for repeat in range(repeats):
      _write(root / name, chosen, source, f'{repeat}_' if repeats > 1 else '')
  pixels = np.stack([_pixels(source / record['file']) for record in records])
  _save(root / 'nothing', pixels, [record['caption'] for record in others + renamed], args.steps)


def _write(folder: pathlib.Path, records: Sequence[Mapping], source: pathlib.Path, prefix: str
           ) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  for record in records:
    shutil.copy(source / record['file'], folder / f'{prefix}{record["file"]}')
    (folder / f'{prefix}{record["file"]}').with_suffix('.txt').write_text(record['caption'])


def _pixels(file: pathlib.Path) -> np.ndarray:
  """f32[3, H, W] in [-1, 1]."""
  with Image.open(file) as image:
    fitted = ImageOps.fit(image.convert('RGB'), (SIDE, SIDE), Image.Resampling.BICUBIC)
  return np.asarray(fitted, np.float32).transpose(2, 0, 1) / 127.5 - 1


def _save(folder: pathlib.Path, pixels: np.ndarray, captions: Sequence[str], steps: int) -> None:
  """A ``FluxPipeline`` without guidance distillation."""
  import diffusers
  import torch

  from tests.systems import tiny_pipelines
  tiny_pipelines.save_flux(
      folder, distilled=False, texts=captions, channels=CHANNELS, latent_channels=LATENT,
      in_channels=4 * LATENT, num_layers=2, num_single_layers=4, num_attention_heads=3,
      attention_head_dim=64, axes_dims_rope=(8, 28, 28))
  scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=SHIFT)
  scheduler.save_pretrained(str(folder / 'scheduler'))
  torch.manual_seed(0)
  model = diffusers.AutoencoderKL.from_config(
      diffusers.AutoencoderKL.load_config(str(folder / 'vae')))
  _learn(model, torch.tensor(pixels), steps)
  with torch.no_grad():
    latents = model.encode(torch.tensor(pixels)).latent_dist.mean
  model.register_to_config(scaling_factor=float(1 / latents.std()),
                           shift_factor=float(latents.mean()))
  model.save_pretrained(str(folder / 'vae'))


def _learn(model, pixels, steps: int) -> None:
  """Trains an autoencoder without noise; its latents stay small by a penalty."""
  import torch
  optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
  schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
  for step in range(1, steps + 1):
    batch = pixels[torch.randint(len(pixels), (16,))]
    if step % 2:
      batch = batch.flip(-1)
    latents = model.encode(batch).latent_dist.mean
    error = torch.mean((model.decode(latents).sample - batch)**2)
    (error + 1e-4 * torch.mean(latents**2)).backward()
    optimizer.step()
    schedule.step()
    optimizer.zero_grad()
    if step % 100 == 0 or step == steps:
      print(f'autoencoder: step {step} of {steps}, {10 * np.log10(4 / error.item()):.1f} dB',
            flush=True)


def measure(args: argparse.Namespace) -> None:
  """Prints the PSNR of both models on both sets of photographs, before and after.

  ROOT/one.png and ROOT/others.png show photographs, drawings before and drawings after, a row each.
  """
  from jaxgen.config import overridden
  from jaxgen.conversion.pipelines import open_pipeline
  from jaxgen.conversion.pretrained import read_external
  from jaxgen.core.image_files import to_png
  from jaxgen.evaluation.pixels import psnr
  from jaxgen.sampling.images import image_grid
  from jaxgen.sampling.load import load_published
  from jaxgen.sampling.load import load_run
  root = args.root
  config = overridden(open_pipeline(str(root / 'base')).config, [f'data.prompt_tokens={TOKENS}'])
  runs = load_published(config, read_external), load_run(str(root / 'tuned'))
  print('| captions | before, dB | after, dB | change, dB |\n|---|---|---|---|')
  for kind in ('one', 'others'):
    photographs, *drawn = _drawn(runs, root / kind)
    before, after = (float(np.mean([psnr(*pair) for pair in zip(images, photographs, strict=True)]))
                     for images in drawn)
    print(f'| {kind} | {before:.1f} | {after:.1f} | {after - before:+.1f} |')
    grid = image_grid([*photographs, *drawn[0], *drawn[1]], columns=len(photographs))
    (root / f'{kind}.png').write_bytes(to_png(grid))


def _drawn(runs: Sequence, folder: pathlib.Path) -> list[list[np.ndarray]]:
  """The photographs of a folder, and what each run draws from their captions; uint8[H, W, 3]."""
  from jaxgen.sampling.request import make_requests
  files = sorted(folder.glob('*.jpg'))
  captions = [file.with_suffix('.txt').read_text() for file in files]
  images = [[np.round(127.5 * (_pixels(file).transpose(1, 2, 0) + 1)).astype(np.uint8)
             for file in files]]
  for run in runs:
    requests = make_requests(run.config, captions, size=(SIDE, SIDE), seed=SEED, guidance=GUIDANCE)
    images.append([image for image, in run.draw(requests, steps=STEPS)])
  return images


if __name__ == '__main__':
  main()
