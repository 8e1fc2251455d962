# MNIST, eps 0.3: distance features MLPFeature(4, 5) and a perceptron.
_base_ = [
    '../_base_/models/lipnet++.py', '../_base_/datasets/mnist_pad1.py',
    '../_base_/schedules/lip_adamw_400e.py'
]

# eps grows over the first 50 epochs
default_hooks = dict(p_norm=dict(epochs=(0, 50, 50, 350, 400)))
