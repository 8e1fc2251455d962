# The settings of the authors' second published run, with a prompt that
# trains: fewer entries, larger rates.
_base_ = './cityscapes_acdc.py'

train_cfg = dict(method=dict(sparse_rate=1e-4, dpu_scale=0.01))
optim_wrapper = dict(
    optimizer=dict(lr=3e-4),
    # prompt_lr 1e-2
    paramwise_cfg=dict(
        custom_keys=dict(visual_prompt=dict(lr_mult=1e-2 / 3e-4))))
