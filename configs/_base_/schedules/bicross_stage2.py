# Stage 2 of BiCross: 10 epochs (the authors' README).
_base_ = './bicross_stage1.py'

train_cfg = dict(max_epochs=10)
# loads and freezes the teacher, and starts the student from it
custom_hooks = [dict(type='mmext.DistillHook')]
