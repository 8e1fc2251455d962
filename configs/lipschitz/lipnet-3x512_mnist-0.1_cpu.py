# MNIST, eps 0.1, for a CPU: a distance net of three layers, 512 neurons wide.
_base_ = 'lipnet-3x512_mnist-0.3_cpu.py'

model = dict(
    head=dict(eps_train=0.3), test_cfg=dict(certify=dict(eps=[0.1])))
