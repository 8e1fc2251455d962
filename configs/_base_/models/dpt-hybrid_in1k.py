# DPT-Hybrid from ImageNet's weights.
_base_ = './dpt-hybrid.py'

# model setting
# ImageNet weights of timm's vit_base_r50_s16_384
init_cfg = dict(
    type='Pretrained',
    checkpoint='checkpoints/vit-base-r50_in1k.pth',
    prefix='backbone.')
model = dict(backbone=dict(init_cfg=init_cfg))

# what a run prints where the file is missing
weights_help = (
    "download timm's ImageNet weights of vit_base_r50_s16_384, rename them:\n"
    'https://github.com/rwightman/pytorch-image-models/releases/download/'
    'v0.1-vitjx/jx_vit_base_resnet50_384-9fd3c705.pth\n'
    'python tools/model_converters/dpt_to_mmext.py '
    'jx_vit_base_resnet50_384-9fd3c705.pth checkpoints/vit-base-r50_in1k.pth')
