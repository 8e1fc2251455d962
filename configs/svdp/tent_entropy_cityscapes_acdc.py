# Baseline: TENT with the entropy loss of its paper (arXiv 2006.10726).
_base_ = './tent_cityscapes_acdc.py'

train_cfg = dict(method=dict(loss='entropy'))
