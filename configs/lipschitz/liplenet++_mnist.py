# MNIST, eps 0.3: LeNetFeature(1024) and a perceptron.
_base_ = 'lipnet++_mnist.py'

model = dict(
    backbone=dict(
        _delete_=True,
        type='mmext.LipLeNet',
        in_channels=1,
        img_size=28,
        input_pad=2,  # to 32x32, with black: (0 - mean) / std
        input_pad_value=-33.3285 / 78.5655,
        hidden=1024),
    head=dict(in_channels=1024, hidden=512))
