# Schedule of SortNet on CIFAR-10.
_base_ = '../lip_runtime.py'

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW', lr=0.02, betas=(0.9, 0.99), eps=1e-10,
        weight_decay=0.02),
    # only linear layers and the scalar of the loss decay
    paramwise_cfg=dict(custom_keys={
        'backbone': dict(decay_mult=0.),
        'head.classifier': dict(decay_mult=0.)
    }))
# `end` is one epoch late, or the last step, to 0, would not be taken
param_scheduler = dict(
    type='CosineAnnealingLR',
    by_epoch=True,
    T_max=3000,
    end=3001,
    eta_min=0.,
    convert_to_iter_based=True)
default_hooks = dict(
    ema=None,  # not part of the published recipe
    p_norm=dict(
        type='mmext.PNormScheduleHook',
        style='v2',
        # begin and end of eps' ramp, begin and end of p's rise
        epochs=(0, 0, 200, 2950, 3000),
        p_start=8.,
        p_end=1000.,
        # weight of the cross-entropy, start and end
        lam=(0.2, 2e-3)))

# before p is infinite a validation at p = inf says little
train_cfg = dict(
    by_epoch=True, max_epochs=3000, val_begin=2950, val_interval=10)
val_cfg = dict()
test_cfg = dict()
