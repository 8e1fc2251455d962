# CIFAR-100, eps 8/255: l-inf distance net, MLP(6, 6).
_base_ = [
    '../_base_/models/lipnet.py', '../_base_/datasets/cifar100_pad4.py',
    '../_base_/schedules/lip_adamw_800e.py'
]

model = dict(
    backbone=dict(in_channels=3, img_size=32, depth=5, width=6),
    head=dict(num_classes=100, in_channels=6144, eps_train=5 * 8 / 255),
    test_cfg=dict(certify=dict(eps=[8 / 255])))
