# Baseline: TENT with hard labels, as in CoTTA's segmentation comparison.
_base_ = './source_streetworld.py'

train_cfg = dict(method=dict(type='mmext.Tent', loss='pseudo_label'))
optim_wrapper = dict(optimizer=dict(lr=7.5e-6))  # 6e-5 / 8, CoTTA's code
