# Foggy Cityscapes as a stream of one domain: validation split, 500 frames,
# 2048x1024, fog of beta = 0.01 per metre (the choice of SVDP's code). Split
# and input size are ours: the paper's are not known.
_base_ = ['./cityscapes_views.py']

train_dataloader = dict(
    dataset=dict(
        domains=dict(
            fog=dict(
                type='mmext.FoggyCityscapesDataset',
                data_root='data/cityscapes',
                beta=0.01,  # or 0.005, 0.02
                data_prefix=dict(
                    img_path='leftImg8bit_foggy/val',
                    seg_map_path='gtFine/val'),
                test_mode=True,
                pipeline={{_base_.tta_pipeline}}))))
test_dataloader = dict(
    dataset=dict(
        domains=dict(
            fog=dict(
                type='mmext.FoggyCityscapesDataset',
                data_root='data/cityscapes',
                beta=0.01,
                data_prefix=dict(
                    img_path='leftImg8bit_foggy/val',
                    seg_map_path='gtFine/val'),
                test_mode=True,
                pipeline={{_base_.test_pipeline}}))))
