# Runtime of distance nets: mmpretrain's, with the hook of the moving average.
# The schedule brings default_hooks.p_norm, which sets p.
_base_ = './mmpretrain_runtime.py'

default_hooks = dict(
    # validation, test, certificates and checkpoints are of the average; the
    # live weights' metrics are logged as *_live
    ema=dict(type='mmext.LipschitzEMAHook', decay=0.99),
    checkpoint=dict(interval=10),
    # load_from must fill the whole network, but for a scalar of the loss;
    # None here lets a part of it start at random
    match=dict(
        type='mmext.CheckpointMatchHook',
        ignore=r'(^|\.)head\.loss_module\.',
        optional=r'(^|\.)head\.loss_module\.'))
randomness = dict(seed=2020)  # authors' scripts
