# ViT-S/14 at 112 px: LoRA on queries and values; rank 8 has about
# the size of the adapters.
_base_ = './vit-small-p14_mosa.py'

model = dict(
    adapter=dict(_delete_=True, type='LoRA', rank=8, targets='qv'),
    num_modules=1,
    num_passes=1)
