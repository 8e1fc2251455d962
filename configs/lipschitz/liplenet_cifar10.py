# CIFAR-10, eps 8/255: LeNet(512) of distance layers.
_base_ = 'lipnet_cifar10.py'

model = dict(
    backbone=dict(_delete_=True, type='mmext.LipLeNet', hidden=512),
    head=dict(in_channels=512))
