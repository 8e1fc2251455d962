# SVDP on Rain Cityscapes, one round. Settings as for ACDC; the paper names
# this task, its split, size and rates are not known.
_base_ = [
    '../_base_/models/segformer_mit-b5_nvidia.py',
    '../_base_/datasets/cityscapes_rainy.py', '../_base_/mmseg_runtime.py',
    '../_base_/schedules/adapt_adam.py'
]

# adaptation
train_cfg = dict(
    type='mmext.TestTimeAdaptLoop',
    method=dict(type='mmext.SVDP', sparse_rate=1e-3, reference_view=4),
    reset='never')

# source: see cityscapes_acdc.py
load_from = 'checkpoints/segformer_mit-b5_nvidia_cityscapes.pth'

# runtime
default_hooks = dict(
    logger=dict(interval=20),
    checkpoint=dict(interval=200, max_keep_ckpts=2))
