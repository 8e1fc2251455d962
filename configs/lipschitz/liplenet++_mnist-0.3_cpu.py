# MNIST, eps 0.3, for a CPU (meant for an hour on two cores): the published
# LeNet++ with a schedule that train_cfg.max_epochs scales.
_base_ = [
    '../_base_/models/lipnet++.py', '../_base_/datasets/mnist_pad1.py',
    '../_base_/schedules/lip_cpu.py'
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmext.LipLeNet',
        in_channels=1,
        img_size=28,
        input_pad=2,  # to 32x32, with black: (0 - mean) / std
        input_pad_value=-33.3285 / 78.5655,
        hidden=1024),
    head=dict(in_channels=1024, hidden=512))
# eps grows over the first eighth of the run
default_hooks = dict(p_norm=dict(epochs=(0, 0.125, 0.125, 0.875, 1)))
