# Stage 2 of BiCross around dpt-hybrid: coarse and fine distillation from RGB
# to spikes. The teacher is the config of the student with 3 channels.
_base_ = './dpt-hybrid_spike.py'

model = dict(
    _delete_=True,
    type='mmext.CrossModalityDistiller',
    student={{_base_.model}},
    # both weights: BiCross's code
    ckd=dict(weight=0.01),
    fkd=dict(weight=0.01))
