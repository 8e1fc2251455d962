# SVDP on a config of mmseg itself: a host base, and the lines that make the
# model adapt instead of train. The same lines work on any mmseg config of
# yours. The ``mmseg::`` base needs ``import mmext`` on some versions, which
# our tools do.
_base_ = 'mmseg::segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py'

# the frames to adapt to; the base's own views (ratio-major, 12 of them)
train_dataloader = dict(
    _delete_=True,
    batch_size=1,
    num_workers=2,
    sampler=dict(type='mmext.StreamSampler'),
    dataset=dict(
        type='mmext.ACDCDataset',
        data_root='data/acdc',
        data_prefix=dict(
            img_path='rgb_anon/fog/train', seg_map_path='gt/fog/train'),
        test_mode=True,
        pipeline={{_base_.tta_pipeline}}))

# adaptation
train_cfg = dict(
    _delete_=True,
    type='mmext.TestTimeAdaptLoop',
    method=dict(type='mmext.SVDP', reference_view=4))  # ratio 1, not mirrored
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    optimizer=dict(type='Adam', lr=1e-4))
param_scheduler = None
val_dataloader = val_cfg = val_evaluator = None

# source: the checkpoint of the base config
load_from = 'checkpoints/segformer_mit-b0_8x1_1024x1024_160k_cityscapes.pth'
