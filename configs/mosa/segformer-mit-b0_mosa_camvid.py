# MoSA in mmseg: SegFormer-B0 fine-tuned on CamVid's day sequences. The
# consistency of the two passes is averaged over pixels.
_base_ = [
    '../_base_/models/segformer_mit-b0_mosa.py',
    '../_base_/datasets/camvid.py', '../_base_/mmseg_runtime.py'
]

# model setting
model = dict(
    module=dict(
        data_preprocessor=dict(size=(256, 320)),
        backbone=dict(
            init_cfg=dict(
                type='Pretrained',
                checkpoint='https://mmassets.onedl.ai/mmsegmentation/'
                'v0.5/pretrain/segformer/mit_b0_20220624-7e0fe6dd.pth')),
        decode_head=dict(num_classes=11)))
custom_hooks = [dict(type='mmext.MoSAHook', interval=50)]

# schedule setting: 1000 x 8 crops
train_cfg = dict(type='IterBasedTrainLoop', max_iters=1000, val_interval=250)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.05, by_epoch=False, end=60),
    dict(type='PolyLR', eta_min=1e-6, power=0.9, begin=60, by_epoch=False)
]
default_hooks = dict(logger=dict(interval=25), checkpoint=dict(interval=250))
