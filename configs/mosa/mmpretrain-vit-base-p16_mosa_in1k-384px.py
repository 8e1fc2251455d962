# MoSA on a config of mmpretrain itself: the five lines that make any of its
# vision transformer or Swin configs fine-tune adapters. Data, schedule and
# runtime are the base's; its data_preprocessor is handed to the wrapped model.
# mmpretrain's own train.py runs it, too: the types name the package.
_base_ = 'mmpretrain::vision_transformer/vit-base-p16_64xb64_in1k-384px.py'

# the five lines
model = dict(
    _delete_=True,
    type='mmext.MoSAModel',
    module={{_base_.model}},
    adapter=dict(type='AdaptFormer', bottleneck=64))
custom_hooks = [dict(type='mmext.MoSAHook')]

# start from a checkpoint of the plain model: the names of its weights are kept
load_from = (
    'https://mmassets.onedl.ai/mmclassification/v0/vit/finetune/'
    'vit-base-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-98e8652b.pth')
