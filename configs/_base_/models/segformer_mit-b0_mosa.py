# SegFormer-B0 with MoSA: adapters of the width of each stage beside its
# MixFFN, the head trained in full. The backbone starts from ImageNet-1k.
_base_ = './segformer_mit-b0.py'

model = dict(
    _delete_=True,
    type='mmext.MoSAModel',
    module={{_base_.model}},
    adapter=dict(
        type='AdaptFormer', bottleneck=16, scale=0.1, drop_rate=0.1),
    num_modules=4,
    split='up')
