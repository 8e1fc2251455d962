# MNIST, eps 0.1: the clipped mixture of losses, MLP(5, 5).
_base_ = 'lipnet-mixture_mnist-0.3.py'

model = dict(head=dict(eps_train=0.3), test_cfg=dict(certify=dict(eps=[0.1])))
