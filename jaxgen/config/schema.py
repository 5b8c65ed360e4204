"""The config schema: every field that a config may have, with its default.

A config file is a Python module with ``get_config()``: it takes ``base_config()``, assigns what
differs and returns it. ``ConfigDict`` rejects an unknown name or a value of the wrong type on
assignment; ``validate`` checks constraints between fields.
"""

from ml_collections import ConfigDict


# Kinds and tasks of data sources. ``jaxgen.data`` has a reader for each kind and public data set,
# and a function for each task (tests/config/test_validate.py).
SOURCE_KINDS = ('auto', 'shapes', 'folder', 'controls', 'json', 'jsonl', 'csv', 'parquet', 'tar',
                'arrayrecord', 'tfds', 'photos', 'subjects')
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
GIVEN_ROLES = ('context', 'source', 'reference')  # of images that are no targets
DIALOGUE_TASKS = ('dialogue', 'conversation')  # in which the model decides when to begin an image
# What to do with weights that do not fit the model (checkpoints/adopt.py).
WEIGHT_CHANGES = ('reinit', 'extend', 'drop', 'merge')


def source(kind: str, task: str = 'auto', *, path: str = '', share: tuple = (1.0,),
           split: str = 'train', limit: int = 0, fields: tuple[tuple[str, str], ...] = (),
           root: str = '', size: tuple[int, int] | tuple[()] = ()) -> ConfigDict:
  """One data source of the mixture.

  Args:
    kind: storage format of the records, one of ``SOURCE_KINDS``; ``auto`` detects it from the path.
      Or the name of a public data set, one of ``PUBLIC_SETS``.
    task: the task that a record is turned into, one of ``SOURCE_TASKS``; ``auto`` infers it from
      the roles of the record's images and texts. ``image``: the image is its own condition;
      ``pair``: caption to image; ``caption``: image to caption, for the next-token objective; for
      the others see data/tasks.py.
    path: folder, file, glob or TFDS name; of ``shapes`` the drawn task, as ``edit`` or
      ``storyboard`` (data/shapes/source.py), empty for captions; of ``photos`` and ``subjects``
      any path of images (data/sources/photos.py, subjects.py).
    share: sampling share of this source, as knots spread evenly over the run or as pairs
      (progress, share); one knot is a constant. Shares are normalised over the sources.
    split: ``train`` or ``test``, for kinds that have splits.
    limit: use the first ``limit`` records only; 0 = all.
    fields: pairs (our name, name of the column or key) where they differ; of ``shapes`` pairs
      (setting, value), as ('grids', '3x3'); of ``photos`` ('task', 'views') or 'turns'.
    root: folder that relative image paths are resolved against; '' = the folder of the file.
    size: (height, width) of the targets in pixels; () = the bucket of each.
  """
  return ConfigDict(dict(kind=kind, task=task, path=path, share=share, split=split, limit=limit,
                         fields=fields, root=root, size=size))


def lora(modules: str, *, rank: int, alpha: float) -> ConfigDict:
  """Low-rank adapters (LoRA) for one set of modules.

  Args:
    modules: regex over group/path of linear modules (``denoiser/.*attention/(q|k|v)``).
    rank: r of ``a[inputs, r] @ b[r, features]``.
    alpha: scale; the product is multiplied by alpha / rank.
  """
  return ConfigDict(dict(modules=modules, rank=rank, alpha=alpha))


def base_config() -> ConfigDict:
  """The full schema with defaults; the config file fills ``model`` and ``data.sources``."""
  return ConfigDict(dict(
      seed=0,  # of initial values, data order, noise and dropout
      system='iomm',  # name of the system, see jaxgen.systems.registry
      model=dict(
          mllm=ConfigDict(),  # family and sizes of each group: see jaxgen.models.registry
          bridge=ConfigDict(),  # what maps hidden states to conditioning states
          denoiser=ConfigDict(),  # the model of velocities
          autoencoder=ConfigDict(),  # frozen; encodes images before the step
          lora=ConfigDict(),  # name -> lora(...); where several match a module, the first name wins
          compute_dtype='bfloat16',  # activations; trainable parameters are fp32 masters
          frozen_dtype='bfloat16',  # frozen parameters
          quantized=(),  # (regex over group/path, 'int8' | 'fp8'): quantises these frozen kernels
          fp8=False,  # fp8 matmuls in the denoiser during training
          guidance=1.0,  # scale that a guidance-distilled denoiser is told, in training too (L135)
          mask_ratio=0.85,  # probability that an image token is masked (L089, L091, A18)
      ),
      data=_data(),
      objective=dict(
          flow_matching=1.0,  # weight of the loss term; 0 disables it
          next_token=0.0,  # weight of the loss term
          timesteps='logit_normal',  # distribution of t: this or 'uniform'
          timestep_mean=0.0,  # mean of the logit-normal
          timestep_std=1.0,  # its standard deviation
          timestep_shift=1.0,  # s of the drawn times: s t / (1 + (s - 1) t)
          cosmos_mean=False,  # clean tokens count in the mean of flow_matching, with loss 0 (A25)
      ),
      optimizer=dict(
          name='adamw',  # or 'muon': Muon on hidden matrices, AdamW on the rest (A19)
          learning_rate=1e-4,  # peak of the schedule
          schedule='constant',  # or 'cosine' (to 0)
          warmup_steps=0,  # linear warm-up before the schedule
          b1=0.9,  # decay of the first moment
          b2=0.95,  # decay of the second moment
          eps=1e-8,  # added to the root of the second moment
          moments_dtype='float32',  # storage dtype of the moments; 'bfloat16' halves their memory
          memory='device',  # where moments and EMA stay between steps: 'device' or 'host' memory
          weight_decay=0.0,  # decoupled, times the learning rate
          clip_norm=1.0,  # global norm that gradients are clipped to
          ema_decay=0.0,  # decay of the moving average of the parameters; 0 = none is kept
      ),
      train=dict(
          steps=1000,  # optimizer steps of the run
          rows=8,  # B: rows of the global batch, summed over accumulation steps
          accumulate=1,  # micro-batches per step (gradient accumulation)
          zero=3,  # ZeRO stage: parameters gathered layer by layer (3, FSDP) or once per step (2)
          log_every=10,  # steps between lines on stderr and points in TensorBoard
          checkpoint_every=500,  # steps between saves
          keep=2,  # number of newest checkpoints kept
          wandb='',  # PROJECT or OWNER/PROJECT of Weights & Biases that gets the metrics too
          halt_after=10,  # consecutive non-finite steps after which the run stops
          host_timeout=90.0,  # seconds of silence after which a host counts as lost
      ),
      mesh=dict(  # devices along each axis; their product is the number of devices
          data=-1,  # copies of the model; -1 = the rest
          fsdp=1,  # devices that parameters and optimizer state are split over
          context=1,  # devices that the tokens of a row are split over
          tensor=1,  # devices that heads and hidden units are split over
          rules=(),  # changes to the table of sharding/rules.py: (logical axis, mesh axes, ...)
      ),
      trainable=(('.*', True),),  # (regex over group/path, trains?) in order; all must match
      init_from=dict(  # group -> workdir, weights or another library's model; '' = random
          mllm='', bridge='', denoiser='', autoencoder='',  # path or hub id of its weights
          weights='ema',  # from a workdir: 'ema' if it has one, or always 'params'
          changes=(),  # (regex over group/path, 'reinit' | 'extend' | 'drop' | 'merge'), in order
      ),
      sampling=_sampling(),
      validation=dict(  # while training; docs/metrics.md
          every=0,  # steps between two validations; 0 = off
          sources=ConfigDict(),  # name -> source(...) of held-out samples, whose loss is computed
          batches=4,  # of train.rows rows: always the same ones, under the same noise
          seed=0,  # of those rows and of that noise, whatever the run's own seed is
          requests='',  # what is drawn: prompts, or a job file as of `jaxgen sample`; '' = nothing
          weights='ema',  # 'ema' (where the run keeps one), 'params' or 'both'
      ),
  ))


def _sampling() -> dict[str, object]:
  return dict(
      steps=50,  # solver steps of an image
      solver='euler',  # or 'unipc'
      guidance=4.0,  # text guidance scale s: u + s (c - u); 1 = no guidance
      image_guidance=1.0,  # guidance scale of the references, for systems that support it
      renormalize='none',  # length of guided velocities kept by 'token', by 'image', or not
      negative_prompt='',  # prompt of the unconditional branch; '' = data.empty_prompt
      timestep_shift=1.0,  # s of the noise levels: s t / (1 + (s - 1) t)
      size_shift=(),  # (tokens, mu, tokens, mu): shift exp(mu) by image size instead (FLUX)
      last_level=0.0,  # noise level before 0 that the levels are stretched to; 0 = as they fall
      size=0,  # side of the images in pixels; 0 = data.image_size
      rows=16,  # rows sampled at once
  )


def _data() -> dict[str, object]:
  return dict(
      sources=ConfigDict(),  # name -> source(...)
      tokenizer='',  # folder of a Hugging Face tokenizer, or a hub id
      tower_tokenizers=ConfigDict(),  # group of a text tower -> folder or hub id of its tokenizer
      # Image sizes, by role.
      image_size=512,  # square side in pixels: short edge resized, then centre crop (L097)
      buckets='',  # sizes of targets: '' = that square, or a set of sizes from data/buckets.py
      fit='crop',  # how an image is fitted to its size: 'crop', 'pad' (with white, L020), 'stretch'
      # Sizes of references: 'bucket' like targets, 'native' up to a cap, or 'area': every given
      # image, sources too, is stretched to about that area, as Qwen-Image-Edit has it.
      references='bucket',
      reference_pixels=(1_048_576, 1_048_576, 589_824, 262_144),  # cap by their number (L145)
      reference_side=0,  # longest side of a native reference; 0 = no limit
      max_references=0,  # most references of a sample; 0 = no limit (L049)
      image_sizes=64,  # most distinct sizes a run may encode; each compiles its own program
      clean_roles=(),  # roles whose images the denoiser gets as clean latents
      vision_size=448,  # input side of a square vision tower
      vision_pixels=(3_136, 1_003_520),  # smallest and largest input of a native vision tower
      vision_side=0,  # longest input side of a native vision tower; 0 = no limit (L113)
      vision_area=0,  # area that its images are stretched to at first, as Qwen-Image-Edit; 0 = not
      # Row capacity.
      segments_per_row=1,  # most samples packed into a row
      visual_tokens=1024,  # L: latent tokens per row
      prompt_tokens=512,  # S: prompt tokens per row, learned queries included
      prompt_cut=0,  # tokens of an image-less prompt the denoiser sees, the rest is cut; 0 = all
      patches=0,  # P: vision patches per row; 0 = one square image per segment
      look_ahead=0,  # samples that may be held back until they fit a row
      oversize='refuse',  # a sample that no row can hold: 'refuse', or 'skip' and count it
      interpolation='linear',  # of shares between their knots, or 'step'
      # Prompts and conditioning.
      dialect='plain',  # prompt template of the language model (data/dialects.py)
      scheme='flux',  # position scheme of latent tokens and hidden states (data/positions.py)
      # Hidden states the denoiser sees: 'all', 'text' or 'queries' (L056, L081, A17), or those
      # 'preceding' the token that begins the target (L110).
      shown='all',
      # Texts name every given image as <image_n>; where the language model sees images, image n is
      # inserted there (L008, A03).
      placeholders=False,
      bov_token='',  # with which the assistant begins an image (<BOV>); '' = as any image (A20)
      bov_weight=1.0,  # its loss weight
      dropout=dict(  # condition dropout: probability that a sample trains without ...
          all=0.1,  # any condition but the empty prompt
          text=0.0,  # text; images stay
          last_text=0.0,  # the last text before the target (L119)
          vision=0.0,  # images for the language model (L144)
          latents=0.0,  # clean latents for the denoiser
      ),
      # Prompt of samples without a text.
      reconstruction_prompt='Generate an image that is identical to the reference image:',
      pair_prompt='Generate an image: {caption}',  # wording of a caption to draw
      edit_prompt='{caption}',  # of an edit; {outputs} is the number of images asked for (L008)
      empty_prompt='Generate an image.',  # of samples whose condition is dropped
      caption_prompt='Describe the image:',  # of the task caption
      cache='',  # folder of `jaxgen data cache`: latents are read, not encoded; '' = none
      states='',  # folder of `jaxgen data cache --states`: prompts are not read; '' = none
      # Folder of `jaxgen data cache --image-tokens`: the vision tower does not run; '' = none.
      image_tokens='',
      max_bad_share=0.01,  # stop when a larger share of the records cannot be decoded
      threads=4,  # decoding threads per process
      prefetch=2,  # batches prepared ahead
  )
