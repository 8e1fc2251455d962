# Schedule of SortNet on MNIST: 1500 epochs. Begin and end of the rise of p are
# not in the sources at hand; here they are as on CIFAR-10, in proportion.
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
    T_max=1500,
    end=1501,
    eta_min=0.,
    convert_to_iter_based=True)
default_hooks = dict(
    ema=None,  # not part of the published recipe
    p_norm=dict(
        type='mmext.PNormScheduleHook',
        style='v2',
        # begin and end of eps' ramp, begin and end of p's rise
        epochs=(0, 0, 100, 1450, 1500),
        p_start=8.,
        p_end=1000.,
        # weight of the cross-entropy, start and end
        lam=(0.1, 1e-3)))

# before p is infinite a validation at p = inf says little
train_cfg = dict(
    by_epoch=True, max_epochs=1500, val_begin=1450, val_interval=10)
val_cfg = dict()
test_cfg = dict()
