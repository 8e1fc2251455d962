# CIFAR-10, eps 8/255: SortNet features, 5 layers of 5120 neurons, and a
# perceptron.
_base_ = [
    '../_base_/models/lipnet++.py', '../_base_/datasets/cifar10_pad4.py',
    '../_base_/schedules/sortnet_adamw_3000e.py'
]

model = dict(
    backbone=dict(
        in_channels=3, img_size=32, depth=5, identity=None,
        sort=dict(rho=0.6)),
    head=dict(
        hidden=512,
        loss=dict(_delete_=True, type='mmext.LipCEHingeLoss'),
        eps_train=1.1 * 8 / 255),
    test_cfg=dict(certify=dict(eps=[8 / 255])))
# the perceptron decays, too
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'head.classifier': dict(decay_mult=1.)}))
# eps grows over 500 epochs
default_hooks = dict(
    p_norm=dict(
        epochs=(0, 500, 200, 2950, 3000), eps_smooth=0.4, lam=(1., 0.01)))

# the fill of this recipe: the border's pixels instead of black
train_pipeline = [
    dict(type='RandomCrop', crop_size=32, padding=3, padding_mode='edge'),
    dict(type='RandomFlip', prob=0.5, direction='horizontal'),
    dict(type='PackInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
