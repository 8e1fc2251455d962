# Fashion-MNIST, eps 0.1: l-inf distance net, MLP(5, 5).
_base_ = [
    '../_base_/models/lipnet.py', '../_base_/datasets/fashion-mnist_pad1.py',
    '../_base_/schedules/lip_adamw_400e.py'
]

model = dict(
    head=dict(loss=dict(mix=1.0), eps_train=0.225),
    test_cfg=dict(certify=dict(eps=[0.1])))
