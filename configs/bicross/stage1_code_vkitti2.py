# Stage 1 as the published code runs it, see configs/bicross/README.md.
_base_ = './stage1_vkitti2.py'

# the backbone is in both optimisers of the code: 1e-5 + 1e-4
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=1.1), reassemble=dict(lr_mult=1.1))))
