# CIFAR-10, eps 8/255: l-inf distance net, MLP(6, 5).
_base_ = [
    '../_base_/models/lipnet.py', '../_base_/datasets/cifar10_pad4.py',
    '../_base_/schedules/lip_adamw_800e.py'
]

model = dict(
    backbone=dict(in_channels=3, img_size=32, depth=5),
    head=dict(eps_train=5 * 8 / 255),
    test_cfg=dict(certify=dict(eps=[8 / 255])))
