# MNIST, eps 0.1: SortNet, 5 layers of 5120 neurons. The training radius is not
# in the sources at hand; it is that of lipnet-mixture_mnist-0.1.py.
_base_ = [
    '../_base_/models/lipnet.py', '../_base_/datasets/mnist_pad1.py',
    '../_base_/schedules/sortnet_adamw_1500e.py'
]

model = dict(
    backbone=dict(sort=dict(rho=0.7)),
    head=dict(
        loss=dict(_delete_=True, type='mmext.LipMixtureLoss'),
        eps_train=0.3,
        sort=dict(rho=0.7)),
    test_cfg=dict(certify=dict(eps=[0.1])))

# the fill of this recipe: the border's pixels instead of black
train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=1, padding_mode='edge'),
    dict(type='PackInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
