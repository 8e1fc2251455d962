# Pre_src, the baseline without RGB and without adaptation: spikes of Virtual
# KITTI 2 from ImageNet's weights, 30 epochs of 8 (BiCross's code).
_base_ = [
    '../_base_/models/dpt-hybrid_spike.py',
    '../_base_/datasets/vkitti2_spike.py',
    '../_base_/schedules/bicross_stage1.py', '../_base_/depth_runtime.py'
]

# model setting
# ImageNet weights of timm's vit_base_r50_s16_384, renamed by
# tools/model_converters/dpt_to_mmext.py
init_cfg = dict(
    type='Pretrained',
    checkpoint='checkpoints/vit-base-r50_in1k.pth',
    prefix='backbone.')
model = dict(backbone=dict(init_cfg=init_cfg))
