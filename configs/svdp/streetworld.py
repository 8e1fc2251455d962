# The embedded main job: a SegFormer-B0 trained on StreetWorld's clear domain
# adapts over fog, night, rain, snow. Frames are written by
#   python tools/dataset_converters/streetworld.py --out data/streetworld
# One round and 6 views at 128x256: a reduction of the 14-view protocol.
_base_ = './cityscapes_acdc.py'

# model setting: see streetworld_source_segformer-b0.py
model = dict(
    backbone=dict(
        type='MixVisionTransformer',
        embed_dims=32,
        num_layers=[2, 2, 2, 2]),
    decode_head=dict(
        type='SegformerHead', in_channels=[32, 64, 160, 256], channels=256),
    test_cfg=dict(_delete_=True, mode='whole'))
load_from = 'mmext://streetworld/segformer-b0_clear'

# dataset setting: views at ratios 0.75, 1.0, 1.25, each plain, then mirrored
data_root = 'data/streetworld'
views = [
    dict(type='LoadImageFromFile'),
    dict(
        type='TestTimeAug',
        transforms=[
            [
                dict(type='Resize', scale=(192, 96), keep_ratio=True),
                dict(type='Resize', scale=(256, 128), keep_ratio=True),
                dict(type='Resize', scale=(320, 160), keep_ratio=True)
            ],
            [
                dict(type='RandomFlip', prob=0.),
                dict(type='RandomFlip', prob=1.)
            ],
            [dict(type='LoadAnnotations')],
            [dict(type='PackSegInputs')]
        ])
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=(256, 128), keep_ratio=True),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs')
]
stream = dict(data_root=data_root, pipeline=views)
single = dict(data_root=data_root, pipeline=test_pipeline)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        rounds=1,
        domains=dict(fog=stream, night=stream, rain=stream, snow=stream)))
test_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        domains=dict(fog=single, night=single, rain=single, snow=single)))

# adaptation
train_cfg = dict(method=dict(reference_view=2))  # 256x128, not mirrored
default_hooks = dict(checkpoint=dict(interval=25, max_keep_ckpts=1))
