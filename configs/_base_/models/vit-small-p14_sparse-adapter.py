# ViT-S/14 at 112 px: a fixed random quarter of a standard
# adapter is trained, no modules, one pass.
_base_ = './vit-small-p14_mosa.py'

model = dict(adapter=dict(fixed_mask=True), num_modules=4, num_passes=1)
