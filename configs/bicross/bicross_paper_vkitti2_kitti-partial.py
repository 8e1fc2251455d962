# BiCross as the paper draws it: see stage2_paper_vkitti2.py; pseudo-labels and
# alignment together.
_base_ = './bicross_vkitti2_kitti-partial.py'

stages = dict(
    stage2='stage2_paper_vkitti2.py',
    stage3='bicross_paper_vkitti2_kitti-partial.py')
load_from = 'work_dirs/stage2_paper_vkitti2/epoch_10.pth'

model = dict(model=dict(temporal=dict(type='mmext.SpikeSE')))
