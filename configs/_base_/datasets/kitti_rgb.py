# KITTI, Eigen's split, RGB and depth: 23158 and 652 frames that have all
# files.
_base_ = './depth_rgb.py'

train_dataloader = dict(
    dataset=dict(
        type='mmext.KITTIDepthDataset',
        data_root='data/kitti',
        ann_file='eigen_train_files.txt'))
val_dataloader = dict(
    dataset=dict(
        type='mmext.KITTIDepthDataset',
        data_root='data/kitti',
        ann_file='eigen_test_files.txt'))
test_dataloader = val_dataloader
