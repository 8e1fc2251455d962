# A linear probe: only the head is trained.
# CUB, otherwise as vit-base-p16_mosa_cub.py; the rate is not a published one.
_base_ = './vit-base-p16_mosa_cub.py'

model = dict(
    adapter=dict(_delete_=True, type='LinearProbe'),
    num_modules=1,
    num_passes=1)
