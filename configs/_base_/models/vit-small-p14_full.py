# ViT-S/14 at 112 px: full fine-tuning.
_base_ = './vit-small-p14_mosa.py'

model = dict(
    adapter=dict(_delete_=True, type='FullFineTune'),
    num_modules=1,
    num_passes=1)
