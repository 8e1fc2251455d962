# ViT-S/14 (DINOv2-small architecture, mmpretrain) under a head that grows the
# patch map four times by convolutions: about 22.8 M parameters. Its dropout
# before the classifier serves the uncertainty pass of SVDP.
model = dict(
    type='EncoderDecoder',
    data_preprocessor=dict(
        type='SegDataPreProcessor',
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_val=0,
        seg_pad_val=255),
    backbone=dict(
        type='mmpretrain.VisionTransformer',
        arch='dinov2-small',
        img_size=518,
        patch_size=14,
        layer_scale_init_value=1e-5,
        out_type='featmap'),
    decode_head=dict(
        type='SETRUPHead',
        in_channels=384,
        in_index=0,
        channels=128,
        num_convs=2,
        up_scale=2,
        kernel_size=3,
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=dict(type='BN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss')),
    train_cfg=dict(),
    test_cfg=dict(mode='whole'))
