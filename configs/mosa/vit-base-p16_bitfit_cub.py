# BitFit (arXiv 2106.10199): the biases of the backbone and the head.
# CUB, otherwise as vit-base-p16_mosa_cub.py; the rate is not a published one.
_base_ = './vit-base-p16_mosa_cub.py'

model = dict(
    adapter=dict(_delete_=True, type='BitFit'), num_modules=1, num_passes=1)
