# Stage 1 of BiCross: supervised depth from RGB of DrivingStereo's cloudy
# frames.
_base_ = [
    '../_base_/models/dpt-hybrid.py',
    '../_base_/datasets/drivingstereo-weather_rgb.py',
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
