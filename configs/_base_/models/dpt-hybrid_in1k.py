# DPT-Hybrid from ImageNet's weights.
_base_ = './dpt-hybrid.py'

# model setting
# ImageNet weights of timm's vit_base_r50_s16_384, renamed by
# tools/model_converters/dpt_to_mmext.py
init_cfg = dict(
    type='Pretrained',
    checkpoint='checkpoints/vit-base-r50_in1k.pth',
    prefix='backbone.')
model = dict(backbone=dict(init_cfg=init_cfg))
