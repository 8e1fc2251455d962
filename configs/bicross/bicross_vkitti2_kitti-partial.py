# BiCross, synthetic to real: Virtual KITTI 2 to the part of KITTI that the
# paper's table names.
_base_ = './bicross_vkitti2_kitti.py'

stages = dict(stage3='bicross_vkitti2_kitti-partial.py')

train_dataloader = dict(
    dataset=dict(
        target=dict(
            _delete_=True,
            type='mmext.PartialKITTIDataset',
            data_root='data/kitti',
            split='train',
            modalities=('spike', ),
            pipeline={{_base_.target_pipeline}})))
test_dataloader = dict(
    dataset=dict(
        _delete_=True,
        type='mmext.PartialKITTIDataset',
        data_root='data/kitti',
        split='test',
        modalities=('spike', 'depth'),
        pipeline={{_base_.test_pipeline}},
        test_mode=True))
