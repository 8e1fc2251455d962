# ViT-B/16 with MoSA as published: AdaptFormer adapters of width 64 beside each
# FFN, their up-projections split into 4 modules.
# work_dirs/pretrained/vit_base_p16_in21k.pth (ImageNet-21k, supervised, not
# augreg) is made by tools/model_converters/vit_npz_to_mmext.py (see its help).
model = dict(
    type='mmext.MoSAModel',
    module=dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            # ImageNet's, although these weights were trained on [-1, 1]:
            # as in the authors' code
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            to_rgb=True),
        backbone=dict(
            type='mmext.SplitDropoutViT',
            arch='b',
            img_size=224,
            patch_size=16,
            # of embedding and FFN; active in the frozen backbone, as in the
            # authors' code
            drop_rate=0.1,
            proj_drop_rate=0.0,
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/pretrained/vit_base_p16_in21k.pth')),
        head=dict(
            type='VisionTransformerClsHead',
            num_classes=1000,
            in_channels=768,
            init_cfg=dict(
                type='Kaiming',
                layer='Linear',
                mode='fan_out',
                bias=-4.59511985),  # -log(99)
            loss=dict(type='CrossEntropyLoss', loss_weight=1.0))),
    adapter=dict(
        type='AdaptFormer',
        bottleneck=64,
        scale=0.1,
        drop_rate=0.1,
        act_cfg=dict(type='GELU')),
    num_modules=4,
    split='up')
