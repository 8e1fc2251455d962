# Stage 2 as the paper draws it: a temporal module in front of the student, and
# fine distillation only where the teacher is sure and the student is not.
# Which module and which thresholds is not in what we could read: SE, and
# medians.
_base_ = './stage2_vkitti2.py'

model = dict(
    student=dict(temporal=dict(type='mmext.SpikeSE')),
    fkd=dict(pixel_filter=dict(rgb_q=0.5, spike_q=0.5, stat='quantile')))
