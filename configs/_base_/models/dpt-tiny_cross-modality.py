# Stage 2 of BiCross around dpt-tiny: coarse and fine distillation from RGB to
# spikes. The teacher is the student's config with 3 channels.
_base_ = './dpt-tiny_spike.py'

model = dict(
    _delete_=True,
    type='mmext.CrossModalityDistiller',
    student={{_base_.model}},
    # both weights: BiCross's code
    ckd=dict(weight=0.01),
    fkd=dict(weight=0.01))
