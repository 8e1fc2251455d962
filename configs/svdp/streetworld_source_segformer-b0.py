# Source model of the embedded data: SegFormer-B0 from scratch on StreetWorld,
# clear domain. Frames of 256x512, crops of 128x256; the checkpoint ships in
# mmext/datasets/streetworld/weights.
_base_ = [
    '../_base_/models/segformer_mit-b0.py',
    '../_base_/datasets/streetworld.py', '../_base_/mmseg_runtime.py'
]

# model setting
model = dict(data_preprocessor=dict(size=(128, 256)))

# schedule: 1600 x 8 crops, 35 minutes on a shared core; bfloat16 saves a
# third of the time on CPUs that have it, plain OptimWrapper works as well
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1600, val_interval=400)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='mmext.CPUAmpOptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-4, weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=100),
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=1.0,
        begin=100,
        end=1600,
        by_epoch=False)
]
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=200))
