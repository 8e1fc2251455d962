# Stage 3 as the published code runs it with "adversarial": alignment only, one
# domain classifier for each domain.
_base_ = './ugmt_code_vkitti2_kitti.py'

stages = dict(stage3='glfa_code_vkitti2_kitti.py')
model = dict(losses=('sup', 'sca'), sca=dict(share_head=False))
