# ViT-S/14 at 112 px: a linear probe, only the head is trained.
_base_ = './vit-small-p14_mosa.py'

model = dict(
    adapter=dict(_delete_=True, type='LinearProbe'),
    num_modules=1,
    num_passes=1)
