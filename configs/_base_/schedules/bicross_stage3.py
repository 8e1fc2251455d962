# Stage 3 of BiCross: about 20 epochs (the authors' README), an EMA of 0.999
# from the end of the warm-up on (their code). The student is saved and scored.
_base_ = './bicross_stage1.py'

train_cfg = dict(max_epochs=20)
# also logs what the teacher reaches, as teacher/abs_rel and so on
val_cfg = dict(type='mmext.TeacherStudentValLoop')
custom_hooks = [
    dict(
        type='mmext.MeanTeacherHook',
        decay=0.999,
        evaluate='student',
        save='student'),
    dict(type='mmext.DistillHook')
]
# some heads have no gradient during the warm-up
find_unused_parameters = True
