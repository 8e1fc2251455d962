# CIFAR-100, eps 8/255: MLPFeature(5, 6) and a perceptron.
_base_ = [
    '../_base_/models/lipnet++.py', '../_base_/datasets/cifar100_pad4.py',
    '../_base_/schedules/lip_adamw_800e.py'
]

model = dict(
    backbone=dict(in_channels=3, img_size=32, depth=5, width=6),
    head=dict(
        num_classes=100,
        in_channels=6144,
        hidden=512,
        eps_train=1.1 * 8 / 255,
        kappa=0.95),
    test_cfg=dict(certify=dict(eps=[8 / 255])))
# eps grows over the first 100 epochs
default_hooks = dict(p_norm=dict(epochs=(0, 100, 100, 750, 800)))
