# BiCross on embedded street scenes with pseudo-labels only (UGMT), as the
# published code runs them.
_base_ = './bicross_streetworld.py'

stages = dict(stage3='ugmt_streetworld.py')
model = dict(losses=('scp', ))
