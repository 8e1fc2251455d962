# MoSA in the Pfeiffer style: the adapter follows the FFN, before the residual
# sum.
# CUB, otherwise as vit-base-p16_mosa_cub.py; the rate is not a published one.
_base_ = './vit-base-p16_mosa_cub.py'

model = dict(adapter=dict(_delete_=True, type='Pfeiffer', bottleneck=64))
