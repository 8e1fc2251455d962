# A short schedule for some hundreds of training images, on a CPU; two epochs
# of warm-up, however many iterations they are.
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(
        type='AdamW',
        lr=1e-3,  # to be chosen on the validation images, for each method
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.01),
    paramwise_cfg=dict(custom_keys=dict(bias=dict(decay_mult=0.0))))
param_scheduler = [
    dict(
        type='LinearLR',
        start_factor=0.02,
        begin=0,
        end=2,
        convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR',
        eta_min=0,
        begin=2,
        end=15,
        convert_to_iter_based=True)
]
train_cfg = dict(by_epoch=True, max_epochs=15, val_interval=5)
val_cfg = dict()
test_cfg = dict()
