# ViT-S/14 at 112 px with MoSA: adapters of width 16, which is about 0.7 % of
# the network. work_dirs/pretrained/vit_small_p14.pth (the DINOv2-small
# architecture, tuned for saliency by its author) is made by
# tools/model_converters/vit_onnx_to_mmpretrain.py (see its help).
model = dict(
    type='mmext.MoSAModel',
    module=dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            to_rgb=True),
        backbone=dict(
            type='VisionTransformer',
            arch='dinov2-small',
            img_size=112,  # the position table is resized when it is loaded
            patch_size=14,
            layer_scale_init_value=1e-5,
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/pretrained/vit_small_p14.pth')),
        head=dict(
            type='VisionTransformerClsHead',
            num_classes=1000,
            in_channels=384,
            init_cfg=dict(type='TruncNormal', layer='Linear', std=0.02),
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0))),
    adapter=dict(
        type='AdaptFormer',
        bottleneck=16,
        scale=0.1,
        drop_rate=0.1,
        act_cfg=dict(type='GELU')),
    num_modules=4,
    split='up')
