# Baseline: a dense prompt on a frozen network, VDP-like (arXiv 2212.04145;
# its sizes and rates for this task are not published, these are ours).
_base_ = './cityscapes_acdc.py'

train_cfg = dict(
    method=dict(_delete_=True, type='mmext.VDP', reference_view=4))
optim_wrapper = dict(optimizer=dict(lr=1e-3))
