# Control: CoTTA at SVDP's rate.
_base_ = './camvid_vits_every8.py'

train_cfg = dict(
    method=dict(_delete_=True, type='mmext.CoTTA', reference_view=2))
