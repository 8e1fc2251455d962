# Baseline: the source model averaged over the six views, nothing adapts.
_base_ = './camvid_lite0_every4.py'

train_cfg = dict(
    method=dict(
        _delete_=True,
        type='mmext.SourceOnly',
        multi_view=True,
        reference_view=2))
