# MoSA in mmseg on real weights: ViT-S/14 fine-tuned on CamVid's day sequences
# through adapters and the head; otherwise as
# ../svdp/camvid_source_vits_frozen.py, which trains the head alone.
_base_ = [
    '../_base_/models/vit-small-p14_setr-up_mosa.py',
    '../_base_/datasets/camvid_252x336.py', '../_base_/mmseg_runtime.py'
]

# model setting
model = dict(
    module=dict(
        data_preprocessor=dict(size=(252, 336)),
        backbone=dict(
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/pretrained/vit_small_p14.pth')),
        decode_head=dict(num_classes=11)))
custom_hooks = [dict(type='mmext.MoSAHook', interval=50)]

# schedule setting: 500 x 8 frames
train_cfg = dict(type='IterBasedTrainLoop', max_iters=500, val_interval=250)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.01))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, by_epoch=False, end=20),
    dict(
        type='PolyLR',
        eta_min=1e-6,
        power=0.9,
        begin=20,
        end=500,
        by_epoch=False)
]
default_hooks = dict(logger=dict(interval=10), checkpoint=dict(interval=250))
