"""Every field that a config may have, with its default: the schema of the project.

A config file is a Python module with ``get_config()``: it takes ``base_config()``, assigns what
differs and returns it. ``ConfigDict`` refuses an unknown name and a value of another type at the
assignment; ``validate`` checks what fields must satisfy together.
"""

from ml_collections import ConfigDict


def source(kind: str, task: str, *, path: str = '', share: tuple[float, ...] = (1.0,),
           split: str = 'train', limit: int = 0) -> ConfigDict:
  """One data source of the mixture.

  Args:
    kind: ``shapes`` (drawn on the fly), ``folder``, ``jsonl``, ``arrayrecord`` or ``tfds``.
    task: what a record becomes: ``image`` (image-only: the image conditions itself), ``pair``
      (caption to image) or ``caption`` (image to caption, for the next-token objective).
    path: folder, file, glob or TFDS name; empty for ``shapes``.
    share: share of the samples drawn from this source, as knots spread evenly over the run and
      interpolated linearly; one knot is a constant. Shares are normalised over the sources.
    split: ``train`` or ``test``, where the kind knows splits.
    limit: use the first ``limit`` records only; 0 = all.
  """
  return ConfigDict(dict(kind=kind, task=task, path=path, share=share, split=split, limit=limit))


def lora(modules: str, *, rank: int, alpha: float) -> ConfigDict:
  """Low-rank adapters of one set of modules.

  Args:
    modules: regex over group/path of linear modules (``denoiser/.*attention/(q|k|v)``).
    rank: r of ``a[inputs, r] @ b[r, features]``.
    alpha: the product is multiplied by alpha / rank.
  """
  return ConfigDict(dict(modules=modules, rank=rank, alpha=alpha))


def base_config() -> ConfigDict:
  """The full schema with its defaults; ``model`` and ``data.sources`` are filled by the system."""
  return ConfigDict(dict(
      seed=0,
      system='iomm',
      model=dict(
          mllm=ConfigDict(), bridge=ConfigDict(),  # family and sizes: see jaxgen.models.registry
          denoiser=ConfigDict(), autoencoder=ConfigDict(),
          lora=ConfigDict(),  # name -> lora(...), adapters; where several match, the first name
          compute_dtype='bfloat16',  # activations; parameters that train are fp32 masters
          frozen_dtype='bfloat16',  # parameters that do not train
          quantized=(),  # (regex over group/path, 'int8' | 'fp8'): kernels of theirs in eight bits
          fp8=False,  # products of the denoiser's hidden units in 8-bit floats while it trains
          mask_ratio=0.85,  # probability that an image token is masked (L089, L091, A18)
          conditioning='all',  # 'all' MLLM outputs, or 'queries_only' (the MetaQuery baseline, A17)
      ),
      data=dict(
          sources=ConfigDict(),  # name -> source(...)
          tokenizer='',  # folder of a Hugging Face tokenizer, or a hub id
          image_size=512,  # square side in pixels: short edge resized, then centre crop (L097)
          vision_size=448,  # square side that the vision tower sees
          segments_per_row=1,  # samples packed into a row at the most
          visual_tokens=1024,  # L: latent tokens of a row
          prompt_tokens=512,  # S: prompt tokens of a row
          caption_dropout=0.1,  # share of samples whose prompt is replaced by the empty caption
          reconstruction_prompt='Generate an image that is identical to the reference image:',
          pair_prompt='Generate an image: {caption}',
          empty_prompt='Generate an image.',
          caption_prompt='Describe the image:',
          max_bad_share=0.01,  # stop when more of the records than this cannot be decoded
          threads=4,  # decoding threads of each process
          prefetch=2,  # batches made ahead
      ),
      objective=dict(
          flow_matching=1.0,  # weight of the term; 0 leaves it out
          next_token=0.0,
          timesteps='logit_normal',  # or 'uniform'
          timestep_mean=0.0,  # of the logit-normal
          timestep_std=1.0,
          timestep_shift=1.0,  # s t / (1 + (s - 1) t)
      ),
      optimizer=dict(
          name='adamw',  # or 'muon': Muon on hidden matrices, AdamW on the rest (A19)
          learning_rate=1e-4,
          schedule='constant',  # or 'cosine' (to 0)
          warmup_steps=0,
          b1=0.9,
          b2=0.95,
          eps=1e-8,
          moments_dtype='float32',  # what moments are stored in; 'bfloat16' halves them
          memory='device',  # where moments and EMA lie between steps; 'host' frees devices of them
          weight_decay=0.0,
          clip_norm=1.0,
          ema_decay=0.0,  # 0 = no EMA
      ),
      train=dict(
          steps=1000,
          rows=8,  # B: rows of the global batch, all accumulation steps together
          accumulate=1,  # micro-batches that a step is split into
          zero=3,  # parameters gathered layer by layer (3, FSDP), or once for each step (2)
          log_every=10,
          checkpoint_every=500,
          keep=2,  # newest checkpoints kept
          halt_after=10,  # consecutive non-finite steps after which the run stops
          host_timeout=90.0,  # seconds of silence after which a host counts as lost
      ),
      mesh=dict(data=-1, fsdp=1, context=1, tensor=1, rules=()),  # -1 = all left; docs/scaling.md
      trainable=(('.*', True),),  # (regex over group/path, trains?) in order; all must match
      init_from=dict(  # group -> workdir, weights or another library's model; '' = random
          mllm='', bridge='', denoiser='', autoencoder='',
          weights='ema',  # of a workdir take 'ema' where it has one, or always 'params'
          changes=(),  # (regex over group/path, 'reinit' | 'extend' | 'drop' | 'merge'), in order
      ),
      sampling=dict(
          steps=50,
          guidance=4.0,  # u + s (c - u); 1 = no guidance
          timestep_shift=1.0,
          size=0,  # 0 = data.image_size
      ),
  ))
