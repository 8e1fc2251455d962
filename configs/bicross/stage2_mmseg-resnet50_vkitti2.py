# The distiller around a stock ResNet-50 of mmseg: any estimator's config can
# be the student, and the taps are modules of its decoder.
_base_ = [
    '../_base_/datasets/vkitti2_rgb-spike.py',
    '../_base_/schedules/bicross_stage2.py', '../_base_/depth_runtime.py'
]

# model setting
data_preprocessor = dict(type='mmext.SpikeDataPreprocessor', size=(384, 384))
student = dict(
    type='mmext.BiCrossDepthEstimator',
    data_preprocessor=data_preprocessor,
    backbone=dict(type='ResNet', depth=50, in_channels=128),
    decode_head=dict(
        type='mmext.DPTDepthHead',
        in_channels=(256, 512, 1024, 2048),
        reassemble=None),
    uncertainty_head=dict(type='mmext.DPTUncertaintyHead'))
model = dict(
    type='mmext.CrossModalityDistiller',
    student=student,
    teacher_ckpt='work_dirs/stage1_mmseg-resnet50_vkitti2/epoch_30.pth',
    ckd=dict(weight=0.01, path='decode_head.layer_4'),
    fkd=dict(weight=0.01, path='decode_head.path_4'))
