# Swin-B with MoSA as published: adapters of width 64 inside the MLP branch of
# each block, their up-projections split into 4 modules.
# work_dirs/pretrained/swin_base_p4_w7_in22k.pth (ImageNet-22k, 224 px) is made
# by tools/model_converters/swin_to_mmext.py (see its help).
model = dict(
    type='mmext.MoSAModel',
    module=dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            mean=[123.675, 116.28, 103.53],
            std=[58.395, 57.12, 57.375],
            to_rgb=True),
        backbone=dict(
            type='SwinTransformer',
            arch='base',
            img_size=224,
            # stays active in the frozen backbone, as in the authors' code
            drop_path_rate=0.5,
            init_cfg=dict(
                type='Pretrained',
                checkpoint='work_dirs/pretrained/swin_base_p4_w7_in22k.pth')),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=1000,
            in_channels=1024,
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
