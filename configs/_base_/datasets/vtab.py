# VTAB-1k: train on all 1000 images, images squeezed to 224x224 without any
# augmentation, report the full test set. A config names its task in all three
# loaders. To choose settings, train on 800 and look at the other 200:
# --cfg-options train_cfg.val_interval=5 val_dataloader.dataset.split=val200
#     train_dataloader.dataset.split=train800
dataset_type = 'mmext.VTABDataset'
data_root = 'data/vtab-1k'

pipeline = [
    dict(type='LoadImageFromFile'),
    dict(
        type='Resize',
        scale=(224, 224),
        interpolation='bilinear',
        backend='pillow'),
    dict(type='PackInputs')
]

train_dataloader = dict(
    batch_size=128,
    num_workers=4,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type=dataset_type,
        task='cifar',
        data_root=data_root,
        split='train800val200',
        pipeline=pipeline))
test_dataloader = dict(
    batch_size=128,
    num_workers=4,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        task='cifar',
        data_root=data_root,
        split='test',
        test_mode=True,
        pipeline=pipeline))
test_evaluator = dict(type='Accuracy', topk=1)
# the schedule looks at it once, after the last epoch: nothing is chosen by it
val_dataloader = test_dataloader
val_evaluator = test_evaluator
