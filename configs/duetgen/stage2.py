"""DuetGen, stage 2: connector and denoiser learn to draw what a dialogue calls for.

  jaxgen train --config=configs/duetgen/stage2.py --workdir=runs/duetgen/stage2

The language model of stage 1 is frozen. Of every sequence one random image is drawn, from the
states before its <BOV> and from all images before it; alignment data and the dialogues of stage 1
are mixed (L115, L116). The recipe is Cosmos' own (L141), with steps and shares of ours (A22): the
paper gives none. Its dropout of texts becomes one of the last text alone, as guidance drops it
(A23).

Two of Cosmos' habits are fields: ``objective.cosmos_mean`` counts condition frames in the mean of
the loss (A25), and ``model.denoiser.clean_time`` is their time: -1, that of the target, as in the
pre-trained model; 1e-4 in the post-trained one, which calls it 0.1.
"""

from configs.duetgen import base


def get_config():
  config = base.get_config()
  config.trainable = ((r'(mllm|autoencoder)/.*', False), (r'(connector|denoiser)/.*', True))
  config.init_from.mllm = f'{base.RUNS}/stage1'
  # The release holds the connector and the denoiser in one.
  config.init_from.changes = ((r'connector/(?!projector/).*', 'drop'),
                              (r'denoiser/projector/.*', 'drop'))
  base.alignment(config, 0.75)
  base.dialogues(config, 'dialogue', 0.25)
  base.drawing_rows(config)
  config.optimizer.update(learning_rate=3e-5, weight_decay=1e-3, clip_norm=0.1)
  config.train.steps = 50_000
  return config
