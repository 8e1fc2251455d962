# Stage 3 of BiCross around dpt-tiny: mean teacher and feature alignment, both
# at once as the paper draws them. Numbers: BiCross's code.
_base_ = './dpt-tiny_spike.py'

model = dict(
    _delete_=True,
    type='mmext.CrossDomainAdapter',
    model={{_base_.model}},
    losses=('sup', 'scp', 'sca'),
    # of a batch, the half of which the teacher is surer
    scp=dict(threshold=dict(type='quantile', q=0.5, per_image=False)),
    sca=dict(weight=0.1, beta=0.01),
    # supervised steps at the start, with a tenth of their weight
    warmup_iters=3,
    warmup_weight=0.1)
