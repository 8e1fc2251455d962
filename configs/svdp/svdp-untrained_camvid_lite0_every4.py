# SVDP with a prompt that never trains, as in the authors' code.
_base_ = './camvid_lite0_every4.py'

train_cfg = dict(method=dict(prompt_grad=False))
