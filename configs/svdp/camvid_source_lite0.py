# Source model on CamVid's day sequences: EfficientNet-Lite0 (ImageNet
# weights) under a light DeepLabV3+ head, all weights trained, 360x480.
# work_dirs/pretrained/efficientnet_lite0.pth is made by
# tools/model_converters/efficientnet_lite_to_timm.py (see its help).
_base_ = [
    '../_base_/models/deeplabv3plus_lite0.py', '../_base_/datasets/camvid.py',
    '../_base_/mmseg_runtime.py'
]

model = dict(
    data_preprocessor=dict(size=(256, 320)),
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='work_dirs/pretrained/efficientnet_lite0.pth')),
    decode_head=dict(
        num_classes=11,
        # (median frequency / frequency) ** (1/3) over the training part
        loss_decode=dict(class_weight=[
            0.66, 0.56, 1.64, 0.5, 1.0, 0.73, 1.5, 1.68, 0.9, 1.81, 2.27
        ])))

# Schedule: 1000 x 8 crops, about 30 minutes on one core.
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1000, val_interval=250)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=6e-4, weight_decay=0.01),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, custom_keys=dict(decode_head=dict(lr_mult=3.0))))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, end=60),
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=0.9,
        begin=60,
        end=1000,
        by_epoch=False)
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=250))
custom_hooks = [dict(type='mmext.ChannelsLastHook')]
