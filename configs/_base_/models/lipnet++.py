# Distance features and a perceptron of two layers, whose bounds come from
# intervals ("++", "+MLP"). The published MLPFeature(4, 5): four layers of
# 5 * 1024 neurons.
model = dict(
    type='mmext.LipschitzClassifier',
    backbone=dict(
        type='mmext.LipMLP', in_channels=1, img_size=28, depth=4, width=5),
    head=dict(
        type='mmext.BoundMLPHead',
        num_classes=10,
        in_channels=5120,
        hidden=256,
        loss=dict(type='mmext.LipCrossEntropyLoss'),
        eps_train=0.35,  # in units of pixels in [0, 1], as every eps
        kappa=0.5),
    test_cfg=dict(certify=dict(eps=[0.3])))
