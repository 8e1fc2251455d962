# Stage 3 as the published code runs it by default ("meanteacher"):
# pseudo-labels only, and the best epoch by the labels of the target's test
# set. That choice is not unsupervised; our other configs do without.
_base_ = './bicross_vkitti2_kitti.py'

stages = dict(
    stage1='stage1_code_vkitti2.py',
    stage2='stage2_code_vkitti2.py',
    stage3='ugmt_code_vkitti2_kitti.py')
load_from = 'work_dirs/stage2_code_vkitti2/epoch_10.pth'

# warmup_step is 4 there, which makes 3 steps
model = dict(losses=('scp', ), warmup_iters=4, warmup_off_by_one=True)

# the backbone is in both optimisers of the code: 1e-5 + 1e-4
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            backbone=dict(lr_mult=1.1), reassemble=dict(lr_mult=1.1))))

# validation on the target
val_dataloader = dict(
    _delete_=True,
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset={{_base_.test_dataloader.dataset}})
val_evaluator = dict(prefix='target')
param_scheduler = [
    dict(
        type='ReduceOnPlateauLR',
        monitor='target/val_sig',
        factor=0.1,
        patience=10,
        threshold=1e-4,
        rule='less',
        by_epoch=True)
]
default_hooks = dict(checkpoint=dict(save_best='target/abs_rel'))
