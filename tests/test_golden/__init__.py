# Copyright (c) mmext contributors. All rights reserved.
import pytest

# Their asserts explain themselves as those of test files do.
pytest.register_assert_rewrite(
    *(f'{__name__}.{name}' for name in ('recorded', 'lipschitz_runs',
                                        'lipschitz_operator',
                                        'lipschitz_networks',
                                        'lipschitz_training')))
