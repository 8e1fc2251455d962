# Stages of BiCross for the small DPT, from scratch, in the time of a CPU: one
# rate for all weights, since none are pretrained, warm-up, then a cosine over
# the run; train_cfg.max_epochs alone makes it longer or shorter. All numbers
# are choices.

# optimizer
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-3, betas=(0.9, 0.999), eps=1e-8),
    clip_grad=dict(max_norm=1.0))

# learning policy
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=50),
    dict(
        type='CosineAnnealingLR',
        eta_min=1e-6,
        by_epoch=True,
        convert_to_iter_based=True)
]

# one validation, after the last epoch
train_cfg = dict(by_epoch=True, max_epochs=30, val_interval=1000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
