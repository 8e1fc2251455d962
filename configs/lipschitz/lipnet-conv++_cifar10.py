# CIFAR-10, eps 8/255: ConvFeature(3, 1024) and a perceptron.
_base_ = 'lipnet++_cifar10.py'

model = dict(
    backbone=dict(_delete_=True, type='mmext.LipConv', width=3, hidden=1024),
    head=dict(in_channels=1024, kappa=1.0))
