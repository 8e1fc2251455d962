# MNIST, eps 0.3, for a CPU (meant for an hour on two cores): a distance net of
# three layers, 512 neurons wide, with the loss of lipnet-mixture_mnist-0.3.py
# and the average of weights. train_cfg.max_epochs scales the whole schedule.
_base_ = [
    '../_base_/models/lipnet.py', '../_base_/datasets/mnist_pad1.py',
    '../_base_/schedules/lip_cpu.py'
]

model = dict(
    backbone=dict(depth=2, width=0.5),
    head=dict(
        in_channels=512,
        loss=dict(_delete_=True, type='mmext.LipMixtureLoss'),
        eps_train=0.45))
default_hooks = dict(p_norm=dict(lam=(0.05, 2e-4)))
