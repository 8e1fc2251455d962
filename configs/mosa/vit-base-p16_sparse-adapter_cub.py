# The sparse single adapter: a fixed random quarter of a standard adapter is
# trained, no modules, one pass.
# CUB, otherwise as vit-base-p16_mosa_cub.py; the rate is not a published one.
_base_ = './vit-base-p16_mosa_cub.py'

model = dict(adapter=dict(fixed_mask=True), num_modules=4, num_passes=1)
