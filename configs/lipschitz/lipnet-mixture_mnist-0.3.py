# MNIST, eps 0.3: the clipped mixture of losses, MLP(5, 5).
_base_ = [
    '../_base_/models/lipnet.py', '../_base_/datasets/mnist_pad1.py',
    '../_base_/schedules/lip_adam_450e.py'
]

model = dict(
    head=dict(
        loss=dict(_delete_=True, type='mmext.LipMixtureLoss'), eps_train=0.45))

# the fill of this recipe: the border's pixels instead of black
train_pipeline = [
    dict(type='RandomCrop', crop_size=28, padding=1, padding_mode='edge'),
    dict(type='PackInputs')
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
