# DPT-Hybrid for 128 spike moments: its first convolution starts from random
# weights.
_base_ = './dpt-hybrid.py'

model = dict(backbone=dict(in_channels=128))
