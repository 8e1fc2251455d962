# Baseline: batch-norm statistics of the test image.
_base_ = './source_camvid_lite0_every4.py'

train_cfg = dict(method=dict(type='mmext.BNStats'))
