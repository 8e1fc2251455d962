# DPT-Hybrid with an uncertainty head, as BiCross uses it. For spikes set
# backbone.in_channels=128. Weights: tools/model_converters/dpt_to_mmext.py.

# model setting
data_preprocessor = dict(
    type='mmext.SpikeDataPreprocessor',
    size=(384, 384))  # 224 x 224 for NYU and Respike
model = dict(
    type='mmext.BiCrossDepthEstimator',
    data_preprocessor=data_preprocessor,
    backbone=dict(
        type='mmext.DPTHybrid', arch='base', in_channels=3, img_size=384),
    decode_head=dict(
        type='mmext.DPTDepthHead',
        in_channels=(256, 512, 768, 768),
        channels=256,
        reassemble=dict(out_channels=(256, 512, 768, 768)),
        # of DPT's model for KITTI; indoors 3.05e-4 and 0.1378
        scale=6.016e-5,
        shift=0.00579,
        loss_depth=dict(type='mmext.SigLoss')),
    uncertainty_head=dict(
        type='mmext.DPTUncertaintyHead',
        channels=256,
        loss_uncertainty=dict(type='mmext.UncertaintyLoss')),
    train_cfg=dict(min_depth=1e-3, max_depth=80.0, crop='garg'),
    test_cfg=dict(mode='whole'))
