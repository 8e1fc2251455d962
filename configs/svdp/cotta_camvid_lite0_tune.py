# CoTTA on the stream on which settings are chosen.
_base_ = './camvid_lite0_tune.py'

train_cfg = dict(
    method=dict(_delete_=True, type='mmext.CoTTA', reference_view=2))
