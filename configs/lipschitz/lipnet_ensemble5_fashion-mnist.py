# Fashion-MNIST, eps 0.1: 5 networks that are trained together, as the authors'
# script does. lipnet-3x512_posthoc5_mnist-0.1_cpu.py averages networks
# that are trained already.
_base_ = 'lipnet_fashion-mnist.py'

member = {{_base_.model}}
model = dict(
    _delete_=True,
    type='mmext.CertifiedEnsemble',
    train='joint',
    members=[dict(model=member) for _ in range(5)],
    test_cfg=dict(certify=dict(eps=[0.1])))
