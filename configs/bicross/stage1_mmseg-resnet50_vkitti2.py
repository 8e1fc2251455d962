# Stage 1 on a stock ResNet-50 of mmseg under DPT's decoder: the backbone gives
# maps, so nothing is reassembled.
_base_ = [
    '../_base_/datasets/vkitti2_rgb.py',
    '../_base_/schedules/bicross_stage1.py', '../_base_/depth_runtime.py'
]

# model setting
data_preprocessor = dict(type='mmext.SpikeDataPreprocessor', size=(384, 384))
model = dict(
    type='mmext.BiCrossDepthEstimator',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='ResNet',
        depth=50,
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet50')),
    decode_head=dict(
        type='mmext.DPTDepthHead',
        in_channels=(256, 512, 1024, 2048),
        reassemble=None),
    uncertainty_head=dict(type='mmext.DPTUncertaintyHead'))
