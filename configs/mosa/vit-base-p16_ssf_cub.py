# SSF (arXiv 2210.08823): a scale and a shift after each layer.
# CUB, otherwise as vit-base-p16_mosa_cub.py; the rate is not a published one.
_base_ = './vit-base-p16_mosa_cub.py'

model = dict(
    adapter=dict(_delete_=True, type='SSF'), num_modules=1, num_passes=1)
