# Fashion-MNIST, eps 0.1: MLPFeature(4, 5) and a perceptron.
_base_ = [
    '../_base_/models/lipnet++.py', '../_base_/datasets/fashion-mnist_pad1.py',
    '../_base_/schedules/lip_adamw_400e.py'
]

model = dict(
    head=dict(hidden=512, eps_train=0.11),
    test_cfg=dict(certify=dict(eps=[0.1])))
# eps grows over the first 50 epochs
default_hooks = dict(p_norm=dict(epochs=(0, 50, 50, 350, 400)))
