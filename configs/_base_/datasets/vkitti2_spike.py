# Virtual KITTI 2, spikes and depth; see vkitti2_rgb.py.
_base_ = './depth_spike.py'

train_dataloader = dict(
    dataset=dict(
        type='mmext.VKITTI2Dataset', data_root='data/vkitti2', split='train'))
val_dataloader = dict(
    dataset=dict(
        type='mmext.VKITTI2Dataset', data_root='data/vkitti2', split='test'))
test_dataloader = val_dataloader
