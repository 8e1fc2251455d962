# CIFAR-100, eps 8/255: convolutions of distance layers, Conv(4, 1024).
_base_ = 'lipnet_cifar100.py'

model = dict(
    backbone=dict(_delete_=True, type='mmext.LipConv', width=4, hidden=1024),
    head=dict(in_channels=1024))
# unlike that of the MLP, this recipe lets eps grow over the first 100 epochs
default_hooks = dict(p_norm=dict(epochs=(0, 100, 100, 750, 800)))
