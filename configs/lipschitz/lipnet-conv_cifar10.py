# CIFAR-10, eps 8/255: convolutions of distance layers, Conv(3, 1024).
_base_ = 'lipnet_cifar10.py'

model = dict(
    backbone=dict(_delete_=True, type='mmext.LipConv', width=3, hidden=1024),
    head=dict(in_channels=1024))
# unlike that of the MLP, this recipe lets eps grow over the first 100 epochs
default_hooks = dict(p_norm=dict(epochs=(0, 100, 100, 750, 800)))
