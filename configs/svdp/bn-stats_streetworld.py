# Baseline: batch-norm statistics of the test image.
_base_ = './source_streetworld.py'

train_cfg = dict(method=dict(type='mmext.BNStats'))
