# Copyright (c) mmext contributors. All rights reserved.
from pathlib import Path

import pytest

# Asserts of the modules beside the test files explain themselves, too.
pytest.register_assert_rewrite(*(f'{__name__}.{path.stem}'
                                 for path in Path(__file__).parent.glob('*.py')
                                 if path.stem != '__init__'))
