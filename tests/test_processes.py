# Copyright (c) mmext contributors. All rights reserved.
"""The helper that runs commands: what it shows when one fails."""
import sys
import time

import pytest

from .processes import run, run_python, run_ranks, run_together


def test_output_of_both_streams_is_returned_and_shown(tmp_path):
    both = ('import os, sys; print("one", os.environ["KEY"], os.getcwd(), '
            'flush=True); sys.stderr.write("two " + sys.argv[1]); sys.exit(3)')
    output = run_python(both, 7, cwd=tmp_path, code=3, KEY='value')
    assert output == f'one value {tmp_path}\ntwo 7'
    with pytest.raises(AssertionError) as error:
        run_python(both, 'words', KEY='other')
    for part in ('ended with 3, expected 0', 'one other', 'two words'):
        assert part in str(error.value)
    assert run_python(both, '', code=None, KEY='')
    with pytest.raises(AssertionError) as error:
        run_python('print("x" * 10**6 + "end"); raise KeyError("why")')
    assert "KeyError: 'why'" in str(error.value)
    assert len(str(error.value)) < 5000


def test_one_failure_ends_the_others_and_shows_all():
    begin = time.monotonic()
    with pytest.raises(AssertionError) as error:
        run_ranks('import os, sys, time\n'
                  'print("rank", os.environ["RANK"], flush=True)\n'
                  'time.sleep(300 * int(os.environ["RANK"])); sys.exit(1)')
    assert time.monotonic() - begin < 120
    assert 'rank 0' in str(error.value) and 'stopped' in str(error.value)


def test_time_is_limited():
    with pytest.raises(AssertionError, match='stopped.*\nearly'):
        run(sys.executable,
            '-u',
            '-c',
            'print("early"); import time; time.sleep(300)',
            timeout=5)
    assert run_together([['echo', 1], ['echo', 2]]) == ['1\n', '2\n']
