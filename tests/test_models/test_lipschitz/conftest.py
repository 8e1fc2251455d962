# Copyright (c) mmext contributors. All rights reserved.
"""Fixtures of the distance operator's tests."""
import pytest

from mmext.models.lipschitz import cpp_build


@pytest.fixture(params=['reference', 'cpp'])
def backend(request) -> str:
    if request.param == 'cpp' and cpp_build.library() is None:
        pytest.skip(f'no C++ kernel here: {cpp_build.failure()}')
    return request.param
