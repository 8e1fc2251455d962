# CIFAR-10, eps 2/255: SortNet, 6 layers of 5120 neurons.
_base_ = 'sortnet_cifar10-8.py'

model = dict(
    backbone=dict(sort=dict(rho=0.75)),
    head=dict(eps_train=4 * 2 / 255, sort=dict(rho=0.75)),
    test_cfg=dict(certify=dict(eps=[2 / 255])))
default_hooks = dict(p_norm=dict(lam=(1., 0.01)))
