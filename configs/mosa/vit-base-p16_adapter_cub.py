# The standard adapter (AdaptFormer, arXiv 2205.13535): one dense module, one
# pass. GELU as in MoSA, so that they differ in the split only; the authors'
# own baseline has ReLU.
# CUB, otherwise as vit-base-p16_mosa_cub.py; the rate is not a published one.
_base_ = './vit-base-p16_mosa_cub.py'

model = dict(num_modules=1, num_passes=1)
