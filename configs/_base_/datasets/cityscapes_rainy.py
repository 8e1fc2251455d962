# Rain Cityscapes as a stream of one domain: validation split, 2048x1024, one
# of its rain settings (the choice of SVDP's code). Split and input size are
# ours: the paper's are not known.
_base_ = ['./cityscapes_views.py']

train_dataloader = dict(
    dataset=dict(
        domains=dict(
            rain=dict(
                type='mmext.RainyCityscapesDataset',
                data_root='data/cityscapes',
                alpha=0.03,
                beta=0.015,
                dropsize=0.002,
                pattern=12,
                data_prefix=dict(
                    img_path='leftImg8bit_rain/val',
                    seg_map_path='gtFine/val'),
                test_mode=True,
                pipeline={{_base_.tta_pipeline}}))))
test_dataloader = dict(
    dataset=dict(
        domains=dict(
            rain=dict(
                type='mmext.RainyCityscapesDataset',
                data_root='data/cityscapes',
                alpha=0.03,
                beta=0.015,
                dropsize=0.002,
                pattern=12,
                data_prefix=dict(
                    img_path='leftImg8bit_rain/val',
                    seg_map_path='gtFine/val'),
                test_mode=True,
                pipeline={{_base_.test_pipeline}}))))
