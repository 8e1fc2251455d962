# Control: CoTTA at SVDP's rate, which shows what the prompt adds beyond it.
_base_ = './cotta_camvid_lite0_every4.py'

optim_wrapper = dict(optimizer=dict(lr=1e-4))
