# MoSA in mmseg on real weights: the ViT-S/14 of camvid_source_vits_frozen.py,
# its backbone no longer merely frozen but tuned through adapters.
_base_ = '../svdp/camvid_source_vits_frozen.py'

model = dict(
    _delete_=True,
    type='mmext.MoSAModel',
    module={{_base_.model}},
    adapter=dict(type='AdaptFormer', bottleneck=16, scale=0.1, drop_rate=0.1))
custom_hooks = [dict(type='mmext.MoSAHook', interval=50)]
