# Baseline: the source model averaged over the 14 views, nothing adapts.
_base_ = './cityscapes_acdc.py'

train_cfg = dict(
    method=dict(
        _delete_=True,
        type='mmext.SourceOnly',
        multi_view=True,
        reference_view=4))
