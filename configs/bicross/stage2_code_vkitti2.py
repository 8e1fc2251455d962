# Stage 2 as the published code runs it, see configs/bicross/README.md.
_base_ = './stage2_vkitti2.py'

model = dict(teacher_ckpt='work_dirs/stage1_code_vkitti2/epoch_30.pth')
# the backbone is in both optimisers of the code: 1e-5 + 1e-4
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=1.1), reassemble=dict(lr_mult=1.1))))
