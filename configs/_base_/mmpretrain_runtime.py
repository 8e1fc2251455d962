# Settings of a run that every mmpretrain config of mmext shares. A config
# that inherits this file changes single keys, for example
# ``default_hooks = dict(checkpoint=dict(interval=10))``, or removes a hook
# with ``default_hooks = dict(invalid_loss=None)`` (tools/train.py).

# registries: mmpretrain's names need no prefix, ours are written mmext.X
default_scope = 'mmpretrain'
# brings the shims of mmext to programs that do not import it themselves
custom_imports = dict(imports=['mmext'], allow_failed_imports=False)

# hooks, counted in epochs
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=100),
    param_scheduler=dict(type='ParamSchedulerHook'),
    # writes to a temporary file, then replaces; removes old files last
    checkpoint=dict(
        type='mmext.AtomicCheckpointHook', interval=1, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
    # the state of every generator goes into the checkpoint: exact resume
    rng_state=dict(type='mmext.RNGStateHook'),
    # stops a run whose loss is not finite
    invalid_loss=dict(type='mmext.InvalidLossHook'),
    visualization=dict(type='VisualizationHook', enable=False))

# environment; tools/train.py changes nccl to gloo where there is no GPU
env_cfg = dict(
    cudnn_benchmark=False,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'))
randomness = dict(seed=0, deterministic=False)

# logs and pictures
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='UniversalVisualizer', vis_backends=vis_backends)
log_level = 'INFO'

# start: weights to load, or a checkpoint to go on from
load_from = None
resume = False
