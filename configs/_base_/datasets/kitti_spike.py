# KITTI, Eigen's split, spikes and depth.
_base_ = './depth_spike.py'

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
