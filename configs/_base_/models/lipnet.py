# A pure distance net: every logit is 1-Lipschitz for l-infinity at p = inf.
# The published MLP(5, 5): four hidden layers of 5 * 1024 neurons, and the
# classes.
model = dict(
    type='mmext.LipschitzClassifier',
    backbone=dict(
        type='mmext.LipMLP', in_channels=1, img_size=28, depth=4, width=5),
    head=dict(
        type='mmext.LipClsHead',
        num_classes=10,
        in_channels=5120,
        loss=dict(type='mmext.LipHingeLoss', mix=0.75),
        eps_train=0.45,  # in units of pixels in [0, 1], as every eps
        kappa=1.0),
    test_cfg=dict(certify=dict(eps=[0.3])))
