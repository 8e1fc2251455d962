# A distance backbone in a config of mmpretrain itself, under its classifier
# and its linear head: data, loss and runtime are the base's. There are no
# certificates; those need mmext.LipschitzClassifier and one of its heads.
# mmpretrain's own train.py runs it, too: the types name the package.
_base_ = 'mmpretrain::resnet/resnet18_8xb16_cifar10.py'

model = dict(
    backbone=dict(_delete_=True, type='mmext.LipLeNet', hidden=512),
    neck=None,
    head=dict(in_channels=512))

# SGD's steps do not suit gradients that reach few weights
optim_wrapper = dict(
    optimizer=dict(
        _delete_=True, type='Adam', lr=0.01, betas=(0.9, 0.99), eps=1e-10))
# p rises from 8 to infinity; fractions of the run. The hook sets the learning
# rate, too.
param_scheduler = None
custom_hooks = [
    dict(
        type='mmext.PNormScheduleHook',
        epochs=(0, 0.125, 0, 0.875, 1),
        lr=True)
]
