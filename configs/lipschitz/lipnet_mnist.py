# MNIST, eps 0.3: l-inf distance net, MLP(5, 5).
_base_ = [
    '../_base_/models/lipnet.py', '../_base_/datasets/mnist_pad1.py',
    '../_base_/schedules/lip_adamw_400e.py'
]
