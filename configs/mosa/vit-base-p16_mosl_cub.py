# MoSL, the LoRA variant of MoSA: B is split into four modules, A is shared.
# Rank and scale are the defaults of the authors' code; no recipe is published.
# CUB, otherwise as vit-base-p16_mosa_cub.py; the rate is not a published one.
_base_ = './vit-base-p16_mosa_cub.py'

model = dict(
    adapter=dict(_delete_=True, type='LoRA', rank=16, scale=1.0, targets='qv'))
