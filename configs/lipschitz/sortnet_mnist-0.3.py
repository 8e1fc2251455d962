# MNIST, eps 0.3: SortNet, 5 layers of 5120 neurons. The training radius is not
# in the sources at hand; it is that of lipnet-mixture_mnist-0.3.py.
_base_ = 'sortnet_mnist-0.1.py'

model = dict(
    backbone=dict(sort=dict(rho=0.75)),
    head=dict(eps_train=0.45, sort=dict(rho=0.75)),
    test_cfg=dict(certify=dict(eps=[0.3])))
default_hooks = dict(p_norm=dict(lam=(0.02, 2e-4)))
