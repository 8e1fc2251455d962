# ViT-S/14 and a small head for dense prediction, with MoSA in the backbone.
_base_ = './vit-small-p14_setr-up.py'

model = dict(
    _delete_=True,
    type='mmext.MoSAModel',
    module={{_base_.model}},
    adapter=dict(type='AdaptFormer', bottleneck=16, scale=0.1, drop_rate=0.1),
    num_modules=4,
    split='up')
