"""Times DuetGen's loop up to its first image against transformers and diffusers, in one run.

A Qwen2.5-VL of random weights reads an image and a text and writes; then a Cosmos denoiser draws,
two branches of guidance a step. Both sides have the same weights and inputs, in fp32, and must
write the same words:

  python tools/bench_decode.py
  python tools/bench_decode.py --width=256 --layers=2 --side=8 --text=32 --new=8 --solver_steps=2

Prints a table: reading (and one token), writing, and both with the drawing behind them, which is the
time to the first image less the autoencoder's.
"""

import statistics

import bench_models
import numpy as np
import torch
from timing import alternate
from timing import machine
from timing import set_malloc

from jaxgen.models.encoders import generate as language

MORE = dict(new=64, solver_steps=10)  # tokens that are written, steps of the solver


def main():
  flags = bench_models.parse_flags(**MORE)
  set_malloc()
  print(f'{machine()}, fp32, width {flags.width}, {flags.layers} layers, {flags.text} text and '
        f'{flags.side**2 // 4} image tokens read, {flags.new} written, {flags.side**2} drawn in '
        f'{flags.solver_steps} steps of two branches, {flags.steps} repetitions', end='\n\n')
  mllm, drawn = bench_models.make_qwen2_5_vl(flags), drawing(
      bench_models.make_cosmos(flags), flags.solver_steps)
  print('| part | torch s | jaxgen s | torch / jaxgen (medians) | (best) | tokens/s of jaxgen |')
  print('|---|---|---|---|---|---|')
  read, write = writing(mllm, flags, 1), writing(mllm, flags, flags.new)
  whole = {name: lambda name=name: write[name]() + drawn[name]() for name in write}
  for part, sides, tokens in (('read', read, 0), ('read and write', write, flags.new),
                              ('read, write and draw', whole, 0)):
    losses, times = alternate(sides, flags.steps)
    np.testing.assert_allclose(losses['jaxgen'], losses['torch'], rtol=1e-4)
    report(part, times, tokens)


def report(part: str, times: dict[str, list[float]], tokens: int) -> None:
  """A row of the table."""
  middle = {name: statistics.median(seconds) for name, seconds in times.items()}
  best = min(times['torch']) / min(times['jaxgen'])
  rate = f'{tokens / middle["jaxgen"]:.0f}' if tokens else ''
  print(f'| {part} | {middle["torch"]:.3f} | {middle["jaxgen"]:.3f} | '
        f'{middle["torch"] / middle["jaxgen"]:.2f} | {best:.2f} | {rate} |', flush=True)


def writing(pair: bench_models.Pair, flags, new: int):
  """Functions that read the prompt, write ``new`` tokens, and return the sum of their ids."""
  prompt, = pair.inputs
  given = dict(
      input_ids=torch.tensor(np.array(prompt.tokens)).long(),
      pixel_values=torch.tensor(np.array(prompt.patches[0])),
      image_grid_thw=torch.tensor([(1, flags.side, flags.side)]),
      mm_token_type_ids=torch.tensor(np.array(prompt.image_index >= 0)).int())

  def ours():
    tokens, *_ = language.generate(pair.module, pair.params, prompt, max_new=new, stop_ids=())
    return float(np.asarray(tokens).sum())

  def theirs():
    with torch.no_grad():
      tokens = pair.model.generate(**given, max_new_tokens=new, min_new_tokens=new, do_sample=False,
                                   pad_token_id=0)
    return float(tokens[:, prompt.tokens.shape[1]:].sum())

  return {'jaxgen': ours, 'torch': theirs}


def drawing(pair: bench_models.Pair, steps: int):
  """Functions that run the denoiser twice a step, and return the mean square of what it says."""
  sides = bench_models.forward_sides(pair)
  return {name: lambda side=side: statistics.mean(side() for _ in range(2 * steps))
          for name, side in sides.items()}


if __name__ == '__main__':
  main()
