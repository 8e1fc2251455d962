# CIFAR-10, eps 8/255: VGG(512) of distance layers.
_base_ = 'lipnet_cifar10.py'

model = dict(
    backbone=dict(_delete_=True, type='mmext.LipVGG', hidden=512),
    head=dict(in_channels=512))
