# Baseline: CoTTA (arXiv 2203.13591) at its published rate.
_base_ = './camvid_lite0_every4.py'

train_cfg = dict(
    method=dict(
        _delete_=True,
        type='mmext.CoTTA',
        decay=0.999,
        anchor_threshold=0.69,
        restore_prob=0.01,
        reference_view=2))
optim_wrapper = dict(optimizer=dict(lr=7.5e-6))  # 6e-5 / 8, CoTTA's code
