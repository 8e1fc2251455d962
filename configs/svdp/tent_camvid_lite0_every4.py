# Baseline: TENT with hard labels at its published rate.
_base_ = './source_camvid_lite0_every4.py'

train_cfg = dict(method=dict(type='mmext.Tent', loss='pseudo_label'))
optim_wrapper = dict(optimizer=dict(lr=7.5e-6))  # 6e-5 / 8, CoTTA's code
