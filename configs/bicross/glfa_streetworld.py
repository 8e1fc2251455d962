# BiCross on embedded street scenes with feature alignment only (GLFA), as the
# published code runs it.
_base_ = './bicross_streetworld.py'

stages = dict(stage3='glfa_streetworld.py')
model = dict(losses=('sup', 'sca'))
