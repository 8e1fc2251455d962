# Virtual KITTI 2, training pairs of RGB and spikes; see vkitti2_rgb.py.
_base_ = './depth_rgb-spike.py'

train_dataloader = dict(
    dataset=dict(
        type='mmext.VKITTI2Dataset', data_root='data/vkitti2', split='train'))
val_dataloader = dict(
    dataset=dict(
        type='mmext.VKITTI2Dataset', data_root='data/vkitti2', split='test'))
test_dataloader = val_dataloader
