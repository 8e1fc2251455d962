# The small DPT for 128 spike moments.
_base_ = './dpt-tiny.py'

model = dict(backbone=dict(in_channels=128))
