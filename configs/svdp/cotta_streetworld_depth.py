# Baseline: CoTTA (arXiv 2203.13591) for depth, at SVDP's rate.
_base_ = './streetworld_depth.py'

train_cfg = dict(
    method=dict(
        _delete_=True,
        type='mmext.CoTTA',
        task={{_base_.train_cfg.method.task}},
        decay=0.999,
        anchor_threshold=None,
        restore_prob=0.01,
        reference_view=0))
