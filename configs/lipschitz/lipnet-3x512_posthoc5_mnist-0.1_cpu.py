# MNIST, eps 0.1: the average of five networks that were trained on
# their own, each with another seed; the config of the member says how. Nothing
# is trained here:
#   python tools/test.py \
#       configs/lipschitz/lipnet-3x512_posthoc5_mnist-0.1_cpu.py
# A member with another weight: dict(config=..., checkpoint=..., weight=2.)
_base_ = 'lipnet-3x512_mnist-0.1_cpu.py'

model = dict(
    _delete_=True,
    type='mmext.CertifiedEnsemble',
    members=[
        dict(
            config='configs/lipschitz/'
            'lipnet-3x512-member_mnist-0.1_cpu.py',
            checkpoint='work_dirs/lipnet-3x512-member_mnist-0.1_cpu/'
            f'seed{k}/epoch_40.pth') for k in range(5)
    ],
    test_cfg=dict(certify=dict(eps=[0.1])))
