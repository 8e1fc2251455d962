# DPT-Hybrid for 128 spike moments, from ImageNet's weights but for the first
# convolution.
_base_ = './dpt-hybrid_in1k.py'

model = dict(backbone=dict(in_channels=128))
