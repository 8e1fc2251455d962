# BiCross, real spikes: NYU depth v2 (simulated) to Respike (recorded).
# Indoors: 224x224, the constants of the public DPT model for NYU, depth up to
# 10 m (customary; the code has 80 m).
_base_ = [
    '../_base_/models/dpt-hybrid_cross-domain.py',
    '../_base_/datasets/nyu-depth_spike.py',
    '../_base_/schedules/bicross_stage3.py', '../_base_/depth_runtime.py'
]

# all stages: python tools/train_bicross.py THIS_FILE
stages = dict(
    stage1='stage1_nyu.py',
    stage2='stage2_nyu.py',
    stage3='bicross_nyu_respike.py')
load_from = 'work_dirs/stage2_nyu/epoch_10.pth'

# model setting
data_preprocessor = dict(size=(224, 224))
model = dict(
    model=dict(
        data_preprocessor=data_preprocessor,
        decode_head=dict(scale=3.05e-4, shift=0.1378),
        train_cfg=dict(max_depth=10.)))

# dataset setting: labelled source, target without depth; validation stays with
# the source, the target's labels are for the test only
target_pipeline = [
    dict(type='mmext.LoadSpikeFromFile', length=128),
    dict(type='mmext.ResizeSpike', size=(224, 224)),
    dict(type='mmext.PackDepthInputs', keys='spike')
]
test_pipeline = [
    dict(type='mmext.LoadSpikeFromFile', length=128),
    dict(type='mmext.ResizeSpike', size=(224, 224)),
    dict(type='mmext.LoadDepth'),
    dict(type='mmext.PackDepthInputs', keys='spike')
]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='mmext.SourceTargetSampler'),
    dataset=dict(
        _delete_=True,
        type='mmext.SourceTargetDataset',
        source={{_base_.train_dataloader.dataset}},
        target=dict(
            type='mmext.RespikeDataset',
            data_root='data/respike',
            split='train',
            modalities=('spike', ),
            pipeline=target_pipeline)))
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmext.RespikeDataset',
        data_root='data/respike',
        split='val',
        modalities=('spike', 'depth'),
        pipeline=test_pipeline,
        test_mode=True))
