# LoRA (arXiv 2106.09685) on queries and values: one dense module, one pass.
# CUB, otherwise as vit-base-p16_mosa_cub.py; the rate is not a published one.
_base_ = './vit-base-p16_mosa_cub.py'

model = dict(
    adapter=dict(_delete_=True, type='LoRA', rank=16, targets='qv'),
    num_modules=1,
    num_passes=1)
