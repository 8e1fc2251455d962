# The paper's schedule on CIFAR: p rises from 8 at epoch 100 to infinity at
# 750; the learning rate falls along a cosine from 100 to 800.
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
# `end` is one epoch late, or the last step, to 0, would not be taken
param_scheduler = dict(
    type='CosineAnnealingLR',
    by_epoch=True,
    begin=100,
    T_max=700,
    end=801,
    eta_min=0.,
    convert_to_iter_based=True)
default_hooks = dict(
    p_norm=dict(
        type='mmext.PNormScheduleHook',
        # begin of eps' ramp, of p's rise; length of the ramp, end of the rise
        epochs=(0, 100, 0, 750, 800),
        p_start=8.,
        p_end=1000.))

# before p is infinite a validation at p = inf says little
train_cfg = dict(by_epoch=True, max_epochs=800, val_begin=750, val_interval=10)
val_cfg = dict()
test_cfg = dict()
