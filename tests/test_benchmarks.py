# Copyright (c) mmext contributors. All rights reserved.
"""What all benchmarks share: rows and clocks. Speed is judged elsewhere."""
import json

import pytest

from tests.tool_fixtures import tool


def test_rows_are_judged_before_they_are_rounded(tmp_path, capsys):
    rows = tool('benchmarks/rows').Rows(digits=1)
    rows.add('speedup', 1.96, 'x', 2., more=True)
    rows.add('overhead', 1.96, 'x', 2.)
    rows.add('size', 3, 'MB')
    rows.write(str(tmp_path / 'out.json'))
    assert json.loads((tmp_path / 'out.json').read_text()) == [
        dict(name='speedup', value=2., unit='x', target=2., ok=False),
        dict(name='overhead', value=2., unit='x', target=2., ok=True),
        dict(name='size', value=3, unit='MB', target=None, ok=True)
    ]
    assert capsys.readouterr().out.splitlines()[0] == 'speedup: 1.960 x'


def test_rows_silent_whole_and_without_a_verdict(capsys):
    rows = tool('benchmarks/rows').Rows(None, False, without_target=None)
    rows.add('rate', 1 / 3, 'frames/s')
    assert rows[0]['value'] == 1 / 3 and rows[0]['ok'] is None
    assert not capsys.readouterr().out


def test_functions_run_in_turn_and_warm_up_is_not_counted():
    timing = tool('benchmarks/timing')
    calls, clock = [], iter(range(100))
    seconds = timing.in_turn(
        dict(a=lambda: calls.append('a'), b=lambda: calls.append('b')),
        2,
        lambda: next(clock),
        warm_up=1)
    assert calls == ['a', 'b'] * 3
    assert seconds == dict(a=[1, 1], b=[1, 1])
    assert timing.ratio(dict(a=[1., 4., 9.], b=[1., 2., 3.]), 'a', 'b') == 2.


@pytest.mark.parametrize('name', ['svdp', 'lp_distance', 'streetworld'])
def test_scripts_find_what_they_share(name):
    assert tool(f'benchmarks/{name}').Rows
