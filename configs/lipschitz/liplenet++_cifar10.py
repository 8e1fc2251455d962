# CIFAR-10, eps 8/255: LeNetFeature(1024) of distance layers, and a perceptron.
_base_ = 'lipnet++_cifar10.py'

model = dict(
    backbone=dict(_delete_=True, type='mmext.LipLeNet', hidden=1024),
    head=dict(in_channels=1024))
