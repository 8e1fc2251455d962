# ViT-S/14 at 112 px: the standard adapter: one dense module, one pass.
_base_ = './vit-small-p14_mosa.py'

model = dict(num_modules=1, num_passes=1)
