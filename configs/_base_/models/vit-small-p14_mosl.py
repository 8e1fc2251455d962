# ViT-S/14 at 112 px: MoSL, the LoRA variant of MoSA; rank 8 has
# about the size of the adapters.
_base_ = './vit-small-p14_mosa.py'

model = dict(
    adapter=dict(_delete_=True, type='LoRA', rank=8, scale=1.0, targets='qv'))
