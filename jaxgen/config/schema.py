"""Every field that a config may have, with its default: the schema of the project.

A config file is a Python module with ``get_config()``: it takes ``base_config()``, assigns what
differs and returns it. ``ConfigDict`` refuses an unknown name and a value of another type at the
assignment; ``validate`` checks what fields must satisfy together.
"""

from ml_collections import ConfigDict


# What a source may be, and what its records may be used for; the data floor has a reader for each
# kind and public set, and a function for each task (tests/config/test_validate.py).
SOURCE_KINDS = ('auto', 'shapes', 'folder', 'controls', 'json', 'jsonl', 'csv', 'parquet', 'tar',
                'arrayrecord', 'tfds')
PUBLIC_SETS = (
    'anyedit', 'blip3o-60k', 'blip3o-pretrain', 'comm', 'echo-4o-image', 'gpt-image-edit',
    'hq-edit', 'imgedit', 'imgedit-multi', 'instructpix2pix', 'instructpix2pix-original',
    'journeydb', 'llava', 'llava-onevision', 'magicbrush', 'megalith-10m', 'mmc4', 'musar-gen',
    'nhr-edit', 'obelics', 'omnicorpus-cc', 'omniedit', 'pico-banana', 'seed-data-edit',
    'seed-data-edit-multi', 'sharegpt-4o-image', 'sharegpt4v', 'subjects200k',
    'text-to-image-2m', 'ultraedit', 'uniworld', 'uno', 'uno-1m', 'x2i-subject-driven', 'x2i2',
    'zebra-cot')
SOURCE_TASKS = ('auto', 'image', 'pair', 'caption', 'reconstruction', 'edit', 'transformation',
                'reference', 'many_to_many', 'dialogue', 'conversation')
LANGUAGE_TASKS = ('caption', 'conversation')  # whose samples have no target image
# What may become of weights that do not fit as they are (checkpoints/adopt.py).
WEIGHT_CHANGES = ('reinit', 'extend', 'drop', 'merge')


def source(kind: str, task: str = 'auto', *, path: str = '', share: tuple = (1.0,),
           split: str = 'train', limit: int = 0, fields: tuple[tuple[str, str], ...] = (),
           root: str = '') -> ConfigDict:
  """One data source of the mixture.

  Args:
    kind: how records are stored, one of ``SOURCE_KINDS``, where ``auto`` looks at the path; or the
      name of a public data set, one of ``PUBLIC_SETS``.
    task: what a record becomes, one of ``SOURCE_TASKS``; ``auto`` reads it from the roles of its
      images and texts. ``image``: the image conditions itself; ``pair``: caption to image;
      ``caption``: image to caption, for the next-token objective; the others as in data/tasks.py.
    path: folder, file, glob or TFDS name; empty for ``shapes``.
    share: share of the samples drawn from this source, as knots spread evenly over the run, or as
      pairs (progress, share); one knot is a constant. Shares are normalised over the sources.
    split: ``train`` or ``test``, where the kind knows splits.
    limit: use the first ``limit`` records only; 0 = all.
    fields: pairs (our name, name of the column or key) where they differ.
    root: folder that relative image paths start from; '' = that of the file.
  """
  return ConfigDict(dict(kind=kind, task=task, path=path, share=share, split=split, limit=limit,
                         fields=fields, root=root))


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
          quantized=(),  # (regex over group/path, 'int8' | 'fp8'): their kernels in eight bits
          fp8=False,  # fp8 matmuls in the denoiser during training
          mask_ratio=0.85,  # probability that an image token is masked (L089, L091, A18)
      ),
      data=_data(),
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
          solver='euler',  # or 'unipc'
          guidance=4.0,  # of the text: u + s (c - u); 1 = no guidance
          image_guidance=1.0,  # of the references, where a system tells them apart
          negative_prompt='',  # words of the branch without condition; '' = data.empty_prompt
          timestep_shift=1.0,
          size=0,  # side of the images; 0 = data.image_size
          rows=16,  # rows of requests drawn at once
      ),
  ))


def _data() -> dict[str, object]:
  return dict(
      sources=ConfigDict(),  # name -> source(...)
      tokenizer='',  # folder of a Hugging Face tokenizer, or a hub id
      tower_tokenizers=ConfigDict(),  # group of a text tower -> the same of its tokenizer
      # What images become, by role.
      image_size=512,  # square side in pixels: short edge resized, then centre crop (L097)
      buckets='',  # targets: '' = that square, or a set of sizes: data/buckets.py
      fit='crop',  # how an image fills its size: 'crop', or 'pad' with white (L020)
      references='bucket',  # sizes of references: 'bucket' as targets, or 'native' up to a cap
      reference_pixels=(1_048_576, 1_048_576, 589_824, 262_144),  # cap by their number (L145)
      reference_side=0,  # longest side of a native reference; 0 = any
      image_sizes=64,  # different sizes that a run encodes at the most, a program for each
      clean_roles=(),  # roles whose images the denoiser gets as clean latents
      vision_size=448,  # square side that a square vision tower sees
      vision_pixels=(3_136, 1_003_520),  # least and most pixels that a native tower sees
      vision_side=0,  # longest side that it sees; 0 = any (L113)
      # What a row holds.
      segments_per_row=1,  # samples packed into a row at the most
      visual_tokens=1024,  # L: latent tokens of a row
      prompt_tokens=512,  # S: prompt tokens of a row, learned queries included
      patches=0,  # P: vision patches of a row; 0 = one square image for each segment
      look_ahead=0,  # samples that a row may keep waiting until they fit
      oversize='refuse',  # a sample that no row can hold: 'refuse', or 'skip' and count it
      interpolation='linear',  # of shares between their knots, or 'step'
      # What the models are told.
      dialect='plain',  # template around the language model's prompts (data/templates.py)
      scheme='flux',  # positions of latent tokens and states (data/positions.py)
      shown='all',  # states the denoiser sees: 'all', 'text' or 'queries' (L056, L081, A17)
      placeholders=False,  # <image_n> in a text puts the image there (L008, A03)
      bov_weight=1.0,  # loss weight of the token that announces an image (A20)
      dropout=dict(  # shares of samples that train without ...
          all=0.1,  # anything but the empty prompt
          text=0.0,  # words; images stay
          last_text=0.0,  # the last text before the target (L119)
          vision=0.0,  # images for the language model (L144)
          latents=0.0,  # clean latents for the denoiser
      ),
      reconstruction_prompt='Generate an image that is identical to the reference image:',
      pair_prompt='Generate an image: {caption}',
      edit_prompt='{caption}',
      empty_prompt='Generate an image.',
      caption_prompt='Describe the image:',
      cache='',  # folder of `jaxgen data cache`: latents are read, not encoded; '' = none
      max_bad_share=0.01,  # stop when more of the records than this cannot be decoded
      threads=4,  # decoding threads of each process
      prefetch=2,  # batches made ahead
  )
