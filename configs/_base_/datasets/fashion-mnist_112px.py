# Fashion-MNIST, enlarged to 112 px, as VTAB-1k has its tasks: 800 images to
# train on, 200 to choose settings, 2000 to report. mmpretrain's class reads
# the files of the Debian package dataset-fashion-mnist, which a missing folder
# tells how to get. (Its split follows test_mode.) The images are grey; the
# normalisation gives them three channels.
_base_ = './cifar10_112px.py'

dataset_type = 'FashionMNIST'
data_root = 'data/fashion-mnist'

train_dataloader = dict(
    dataset=dict(
        dataset=dict(type=dataset_type, data_root=data_root, download=False)))
val_dataloader = dict(
    dataset=dict(
        dataset=dict(
            _delete_=True,
            type=dataset_type,
            data_root=data_root,
            split='train',
            download=False,
            pipeline={{_base_.test_pipeline}})))
test_dataloader = dict(
    dataset=dict(
        dataset=dict(type=dataset_type, data_root=data_root, download=False)))
