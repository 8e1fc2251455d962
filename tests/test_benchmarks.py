# Copyright (c) mmext contributors. All rights reserved.
"""What all benchmarks share: rows and clocks. Speed is judged elsewhere."""
import json
from argparse import Namespace

import pytest
import torch
from mmengine.registry import init_default_scope

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


def test_gpu_distances_are_rows_with_targets(tmp_path, monkeypatch, capsys):
    """Gradients, bounds and convolutions, too; what is not there is told."""
    gpu = tool('benchmarks/lp_distance_gpu')
    small, large = (gpu._linear(*s) for s in (gpu.SMALL, gpu.LARGE))
    conv = '3x3 convolution 96 x 32 x 32, batch 64'
    limit = dict(limit_ms=1., ms=2.5, over_limit=2.5)
    found = [
        dict(
            name=f'{small}, p = inf, forward',
            cdist_ms=5.,
            compiled_broadcast_ms=None,
            **limit),
        dict(name=f'{large}, p = 9.5, gradients', **limit),
        dict(name=f'{large}, bounds', **dict(limit, over_limit=1.5)),
        dict(name=f'{conv}, p = inf, gradients', ms=0.25),
        dict(name=f'{conv}, p = 8, gradients', **limit)
    ]
    code = dict(
        name='3x3 convolution, inf forward',
        instructions_per_cell=[2.5, 3.],
        cells_per_clock=40.1,
        limit=64.,
        reg=128)
    monkeypatch.setattr(gpu, 'gpu_rows', lambda: list(found))
    monkeypatch.setattr(gpu, 'instruction_rows', lambda: [code])
    monkeypatch.setattr(gpu, 'disassembler', lambda: 'cuobjdump')
    out = tmp_path / 'out.json'
    gpu.main(['--out', str(out)])
    printed = capsys.readouterr().out
    assert 'No ' not in printed and "'over_limit': 1.5" in printed
    rows = {row.pop('name'): row for row in json.loads(out.read_text())}
    assert {
        k: (v['value'], v['unit'], v['target'], v['ok'])
        for k, v in rows.items() if 'milliseconds' not in k
    } == {
        'gpu_linear_128_x_512_x_512_p_inf_forward_over_limit': (2.5, 'x', None,
                                                                True),
        'gpu_linear_128_x_512_x_512_p_inf_forward_speedup_over_cdist':
        (2., 'x', 1., True),
        'gpu_linear_512_x_5120_x_5120_p_9_5_gradients_over_limit': (2.5, 'x',
                                                                    2., False),
        'gpu_linear_512_x_5120_x_5120_bounds_over_limit': (1.5, 'x', 2., True),
        'gpu_3x3_convolution_96_x_32_x_32_batch_64_p_8_gradients_over_limit':
        (2.5, 'x', 2., False),
        'code_3x3_convolution_inf_forward_instructions_per_cell_of_loop_0':
        (2.5, '', None, True),
        'code_3x3_convolution_inf_forward_instructions_per_cell_of_loop_1':
        (3., '', None, True),
        'code_3x3_convolution_inf_forward_cells_per_clock': (40.1, '', None,
                                                             True),
    }
    assert sum('milliseconds' in k for k in rows) == len(found)
    monkeypatch.setattr(gpu, 'gpu_rows', lambda: [])
    monkeypatch.setattr(gpu, 'disassembler', lambda: None)
    gpu.main(['--out', str(out)])
    printed = capsys.readouterr().out
    assert 'No GPU' in printed and 'No Triton' in printed
    assert json.loads(out.read_text()) == []


@pytest.mark.parametrize('recipe', ['streetworld', 'vkitti2'])
def test_depth_steps_of_every_recipe(recipe):
    """The recipes' optimisers, on networks of half a million parameters."""
    depth = tool('benchmarks/depth')
    init_default_scope('mmseg')
    args = Namespace(batch=2, device='cpu')
    small = depth.configs('streetworld')
    for number, cfg in enumerate(depth.configs(recipe), 1):
        cfg.model = small[number - 1].model
        # Where the stages keep the estimator.
        key = ('', 'student', 'model')[number - 1]
        (cfg.model[key] if key else cfg.model).data_preprocessor.size = (64,
                                                                         96)
        step = depth.Step(number, cfg, args)
        assert (step.max_norm is None) == (recipe == 'vkitti2')
        before = [one.clone() for one in step.net.parameters()]
        step()
        step.bare()
        changed = [
            not torch.equal(a, b)
            for a, b in zip(before, step.net.parameters())
        ]
        assert sum(changed) > len(changed) / 2


def test_depth_tool_writes_its_rows(tmp_path, monkeypatch):
    """The smallest run of the part that needs no data and no network."""
    depth = tool('benchmarks/depth')
    monkeypatch.setattr(depth, 'SIZE', (16, 24))
    monkeypatch.setattr(depth, 'TICKS', 16)
    out = tmp_path / 'rows.json'
    monkeypatch.setattr('sys.argv', [
        'depth.py', '--out',
        str(out), '--parts', 'simulator', 'files', '--repeats', '1'
    ])
    depth.main()
    names = {row['name'] for row in json.loads(out.read_text())}
    assert {'simulator_milliseconds', 'pack_over_plain_copy'} <= names
