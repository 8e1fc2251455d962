# The schedule of all published MoSA recipes: AdamW, 100 epochs, the rate
# rises from 0 over 10 epochs (the first one trains with 0) and then falls
# along a cosine to 0. It steps once an epoch.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW',
        lr=1e-3,  # differs between data sets
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.01),  # fixed in the authors' code
    paramwise_cfg=dict(custom_keys=dict(bias=dict(decay_mult=0.0))))
param_scheduler = [
    # `end` counts one more epoch than the warm-up has, and a factor of 0 is
    # not accepted
    dict(type='LinearLR', start_factor=1e-8, by_epoch=True, begin=0, end=11),
    dict(
        type='CosineAnnealingLR',
        T_max=90,
        eta_min=0,
        by_epoch=True,
        begin=10,
        end=100)
]
# after the last epoch only; to follow the validation score, set 1
train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=100)
val_cfg = dict()
test_cfg = dict()
