# CIFAR-10, eps 8/255: SortNet, 6 layers of 5120 neurons.
_base_ = [
    '../_base_/models/lipnet.py', '../_base_/datasets/cifar10_pad4.py',
    '../_base_/schedules/sortnet_adamw_3000e.py'
]

model = dict(
    backbone=dict(
        in_channels=3,
        img_size=32,
        depth=5,
        identity=None,
        sort=dict(rho=0.85)),
    head=dict(
        loss=dict(_delete_=True, type='mmext.LipMixtureLoss'),
        eps_train=3 * 8 / 255,
        identity=None,
        sort=dict(rho=0.85)),
    test_cfg=dict(certify=dict(eps=[8 / 255])))

# the fill of this recipe: the border's pixels instead of black
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=3, padding_mode='edge'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
