# Virtual KITTI 2, RGB and depth: scenes 01, 02, 06, 20 for training, 18 for
# validation. Split: BiCross's code.
_base_ = './depth_rgb.py'

train_dataloader = dict(
    dataset=dict(
        type='mmext.VKITTI2Dataset', data_root='data/vkitti2', split='train'))
val_dataloader = dict(
    dataset=dict(
        type='mmext.VKITTI2Dataset', data_root='data/vkitti2', split='test'))
test_dataloader = val_dataloader
