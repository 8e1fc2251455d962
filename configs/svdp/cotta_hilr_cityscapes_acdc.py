# Control: CoTTA at SVDP's rate, which shows what the prompt adds beyond it.
_base_ = './cotta_cityscapes_acdc.py'

optim_wrapper = dict(optimizer=dict(lr=1e-4))
