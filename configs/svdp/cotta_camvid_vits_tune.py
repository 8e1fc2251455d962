# CoTTA on the stream on which settings are chosen, on the transformer.
_base_ = './camvid_vits_tune.py'

train_cfg = dict(
    method=dict(_delete_=True, type='mmext.CoTTA', reference_view=2))
