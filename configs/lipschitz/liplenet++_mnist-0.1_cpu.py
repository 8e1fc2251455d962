# MNIST, eps 0.1, for a CPU: LeNet++.
_base_ = 'liplenet++_mnist-0.3_cpu.py'

model = dict(
    head=dict(eps_train=0.12), test_cfg=dict(certify=dict(eps=[0.1])))
