# CIFAR-10, eps 16/255: the clipped mixture of losses, MLP(6, 5).
_base_ = 'lipnet-mixture_cifar10-8.py'

model = dict(
    head=dict(eps_train=2.5 * 16 / 255),
    test_cfg=dict(certify=dict(eps=[16 / 255])))
default_hooks = dict(p_norm=dict(lam=(0.1, 2e-4)))
