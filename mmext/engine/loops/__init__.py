# Copyright (c) mmext contributors. All rights reserved.
"""Loops that stock runners drive."""
from .teacher_student_val_loop import TeacherStudentValLoop
from .test_time_adapt_loop import TestTimeAdaptLoop

__all__ = ['TeacherStudentValLoop', 'TestTimeAdaptLoop']
