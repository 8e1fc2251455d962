# ELPV, 2 classes, 800 images, ViT-S/14: MoSA, both projections split.
_base_ = './vit-small-p14_mosa_elpv2-112px.py'

model = dict(split='both')
