# The paper's schedule for the time that a CPU takes: every number of epochs is
# a fraction of the run, so that train_cfg.max_epochs alone makes it longer or
# shorter. The hook sets the learning rate, too.
_base_ = '../lip_runtime.py'

optim_wrapper = dict(
    type='OptimWrapper',
    # one group for the weights of distance layers, whose decay has a p
    constructor='mmext.LpOptimWrapperConstructor',
    optimizer=dict(
        type='mmext.AdamWLp',
        lr=0.02,
        betas=(0.9, 0.99),
        eps=1e-10,
        weight_decay=5e-3))
default_hooks = dict(
    # running means of the averaged weights, from 20 training batches
    ema=dict(buffers='recalibrate'),
    p_norm=dict(
        type='mmext.PNormScheduleHook',
        epochs=(0, 0.125, 0, 0.875, 1),
        p_start=8.,
        p_end=1000.,
        lr=True),
    checkpoint=dict(interval=5))

# one validation, after the last epoch
train_cfg = dict(by_epoch=True, max_epochs=120, val_interval=1000)
val_cfg = dict()
test_cfg = dict()
