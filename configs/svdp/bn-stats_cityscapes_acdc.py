# Baseline: batch-norm statistics of the test image (here the head's one
# batch-norm layer; a transformer's layer norms have no statistics).
_base_ = './source_cityscapes_acdc.py'

train_cfg = dict(method=dict(type='mmext.BNStats'))
