# CIFAR-100, eps 8/255: LeNetFeature(1024) and a perceptron.
_base_ = 'lipnet++_cifar100.py'

model = dict(
    backbone=dict(_delete_=True, type='mmext.LipLeNet', hidden=1024),
    head=dict(in_channels=1024))
