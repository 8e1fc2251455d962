# Food-101: mmpretrain's class; loaded and scored as FGVC-Aircraft.
_base_ = './fgvc_aircraft.py'

dataset_type = 'Food101'
data_root = 'data/food-101'

train_dataloader = dict(
    dataset=dict(type=dataset_type, data_root=data_root, split='train'))
test_dataloader = dict(dataset=dict(type=dataset_type, data_root=data_root))
# the schedule looks at it once, after the last epoch: nothing is chosen by it
val_dataloader = test_dataloader
