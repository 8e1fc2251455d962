# BiCross, synthetic to real: Virtual KITTI 2 to KITTI's Eigen split, the
# target of the config that the authors published.
_base_ = [
    '../_base_/models/dpt-hybrid_cross-domain.py',
    '../_base_/datasets/vkitti2_spike.py',
    '../_base_/schedules/bicross_stage3.py', '../_base_/depth_runtime.py'
]

# all stages: python tools/train_bicross.py THIS_FILE
stages = dict(
    stage1='stage1_vkitti2.py',
    stage2='stage2_vkitti2.py',
    stage3='bicross_vkitti2_kitti.py')
load_from = 'work_dirs/stage2_vkitti2/epoch_10.pth'

# dataset setting: labelled source, target without depth; validation stays with
# the source, the target's labels are for the test only
target_pipeline = [
    dict(type='mmext.LoadSpikeFromFile', length=128),
    dict(type='mmext.KBCrop', size=(352, 1216)),
    dict(type='mmext.ResizeSpike', size=(384, 384)),
    dict(type='mmext.PackDepthInputs', keys='spike')
]
train_dataloader = dict(
    sampler=dict(_delete_=True, type='mmext.SourceTargetSampler'),
    dataset=dict(
        _delete_=True,
        type='mmext.SourceTargetDataset',
        source={{_base_.train_dataloader.dataset}},
        target=dict(
            type='mmext.KITTIDepthDataset',
            data_root='data/kitti',
            ann_file='eigen_train_files.txt',
            modalities=('spike', ),
            pipeline=target_pipeline)))
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmext.KITTIDepthDataset',
        data_root='data/kitti',
        ann_file='eigen_test_files.txt',
        modalities=('spike', 'depth'),
        pipeline={{_base_.test_pipeline}},
        test_mode=True))
