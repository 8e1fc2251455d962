# Schedule of "Boosting the certified robustness of l-inf distance nets" on
# MNIST.
_base_ = '../lip_runtime.py'

optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=0.03, betas=(0.9, 0.99), eps=1e-10),
    # the scalar of the loss: 0.006
    paramwise_cfg=dict(custom_keys={'loss_module.scale': dict(lr_mult=0.2)}))
# `end` is one epoch late, or the last step, to 0, would not be taken
param_scheduler = dict(
    type='CosineAnnealingLR',
    by_epoch=True,
    T_max=450,
    end=451,
    eta_min=0.,
    convert_to_iter_based=True)
default_hooks = dict(
    ema=None,  # not part of the published recipe
    p_norm=dict(
        type='mmext.PNormScheduleHook',
        style='v2',
        # begin and end of eps' ramp, begin and end of p's rise
        epochs=(0, 0, 25, 400, 450),
        p_start=8.,
        p_end=1000.,
        # weight of the cross-entropy, start and end
        lam=(0.05, 2e-4)))

# before p is infinite a validation at p = inf says little
train_cfg = dict(by_epoch=True, max_epochs=450, val_begin=400, val_interval=10)
val_cfg = dict()
test_cfg = dict()
