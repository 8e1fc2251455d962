# CIFAR-10, eps 2/255: SortNet features and a perceptron.
_base_ = 'sortnet++_cifar10-8.py'

model = dict(
    backbone=dict(sort=dict(rho=0.7)),
    head=dict(eps_train=1.1 * 2 / 255),
    test_cfg=dict(certify=dict(eps=[2 / 255])))
