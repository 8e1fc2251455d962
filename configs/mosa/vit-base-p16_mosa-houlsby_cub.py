# MoSA in the Houlsby style: an adapter after each of the two residual sums.
# CUB, otherwise as vit-base-p16_mosa_cub.py; the rate is not a published one.
_base_ = './vit-base-p16_mosa_cub.py'

model = dict(adapter=dict(_delete_=True, type='Houlsby', bottleneck=64))
