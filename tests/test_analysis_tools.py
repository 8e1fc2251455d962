# Copyright (c) mmext contributors. All rights reserved.
"""Tools that compare methods, and examples on a host's own files."""
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmseg')

from mmengine.registry import MODELS  # noqa: E402

from mmext.utils.user_error import UserError  # noqa: E402
from .data_fixtures import write_acdc, write_foggy_cityscapes  # noqa: E402
from .test_datasets.test_weather_train import CONFIG  # noqa: E402
from .tiny_segmentors import tiny_config  # noqa: E402
from .tool_fixtures import ROOT, run_tool, tool  # noqa: E402
from .toy_models import init_scope  # noqa: E402
from .toy_runs import (REFERENCE, adaptation_config,  # noqa: E402
                       plain_pipeline, tta_pipeline)

BASE = (96, 64)  # half of it is the least that SegFormer's kernels fit in


def write_adaptation(folder, name, method, pipeline):
    """An adaptation config of a tiny stock SegFormer as a file."""
    cfg = adaptation_config(
        folder, method, count=1, model=tiny_config('segformer'),
        pipeline=pipeline)
    cfg.default_hooks.checkpoint.interval = 10
    path = Path(folder) / f'{name}.py'
    cfg.dump(str(path))
    return path


@pytest.mark.stack_subset
def test_compare_adaptation(tmp_path):
    """Two methods in one table; a second run reuses both."""
    source = write_adaptation(tmp_path, 'source',
                              dict(type='mmext.SourceOnly'),
                              plain_pipeline(BASE))
    svdp = write_adaptation(
        tmp_path, 'svdp',
        dict(type='mmext.SVDP', reference_view=REFERENCE, sparse_rate=0.02,
             mc_passes=2), tta_pipeline(BASE, (0.5, 1.0)))
    command = ('tools/analysis_tools/compare_adaptation.py', source, svdp,
               '--work-dir', 'out', '--sheet')
    output = run_tool(*command, cwd=tmp_path)
    report = json.loads((tmp_path / 'out' / 'report.json').read_text())
    assert list(report['methods']) == ['SourceOnly', 'SVDP']
    for method in report['methods'].values():
        assert 0 <= method['mIoU'] <= 100
        assert set(method['domains']) == {'fog', 'night'}
    assert '| SVDP |' in (tmp_path / 'out' / 'report.md').read_text()
    assert (tmp_path / 'out' / 'contact_sheet.png').stat().st_size > 0
    assert output.count('running') == 2 and 'reused' not in output

    again = run_tool(*command, cwd=tmp_path)
    assert again.count('reused') == 2 and 'running' not in again

    plot = tool('analysis_tools/plot_adaptation')
    runs = [tmp_path / 'out' / name / 'seed0' for name in ('source', 'svdp')]
    lines = plot.along_stream(runs, ['source', 'SVDP'])
    scores = report['methods']['SVDP']['domains']
    assert dict(zip(*lines['SVDP'])) == pytest.approx(
        {f'r1 {name}': value for name, value in scores.items()})
    lines = plot.against_setting(runs, 'train_cfg.method.mc_passes',
                                 'train_cfg.method.type')
    assert lines['train_cfg.method.type = mmext.SVDP'][0] == [2]
    plot.draw(lines, 'mc_passes', str(tmp_path / 'curve.png'))
    assert (tmp_path / 'curve.png').stat().st_size > 0
    with pytest.raises(UserError, match='not the work folder'):
        plot.along_stream([tmp_path], None)


def test_compare_adaptation_names_the_log_of_a_failure(tmp_path):
    config = write_adaptation(tmp_path, 'source',
                              dict(type='mmext.SourceOnly'),
                              plain_pipeline(BASE))
    (tmp_path / 'source.pth').unlink()
    output = run_tool(
        'tools/analysis_tools/compare_adaptation.py', config, '--work-dir',
        'out', cwd=tmp_path, code=1)
    assert 'source.pth' in output and 'log.txt' in output
    assert 'Traceback' not in output


def test_compare_adaptation_reads_every_config_first(tmp_path):
    """No run is started before all configs are known to adapt."""
    compare = tool('analysis_tools/compare_adaptation')
    trains = str(ROOT / 'configs/svdp/streetworld_source_segformer-b0.py')
    adapts = str(ROOT / 'configs/svdp/source_streetworld.py')
    compare.check_configs([adapts], {'train_cfg.reset': 'domain'})
    for configs, options, part in (
        ([adapts, trains], {}, 'does not adapt'),
        ([adapts, 'nowhere.py'], {}, 'nowhere.py'),
        ([adapts], {'custom_imports.imports.7': 1}, 'does not fit'),
    ):
        with pytest.raises(UserError, match=part):
            compare.check_configs(configs, options)


def test_compare_adaptation_of_depth():
    """AbsRel with four decimals; never beside mIoU."""
    compare = tool('analysis_tools/compare_adaptation')

    def summary(name, value, **more):
        nested = {
            'rounds': dict(r1=dict(fog={name: value})),
            'domains': dict(fog=value),
            name: value
        }
        return compare.summarise('SVDP', [
            dict(report=dict(nested, **more), seed=seed, frames=2, oracle=[],
                 settings={}, seconds_per_frame=0.1) for seed in (0, 1)
        ])

    depth = summary('abs_rel', 0.25, main='abs_rel', digits=4)
    classes = summary('mIoU', 30.)
    assert '**0.2500 ± 0.0000**' in compare.markdown(dict(SVDP=depth))
    assert '**30.00 ± 0.00**' in compare.markdown(dict(SVDP=classes))
    with pytest.raises(UserError, match='classes with depth'):
        compare.markdown(dict(a=depth, b=classes))


@pytest.mark.stack_subset
def test_host_base(tmp_path):
    """``mmseg::segformer/...`` with the lines of the README adapts."""
    root = write_acdc(tmp_path / 'acdc', conditions=('fog', ), count=2)
    text = (f'_base_ = {str(ROOT / "configs/svdp/mmseg-segformer_acdc.py")!r}'
            f'\ntrain_dataloader = dict(num_workers=0, dataset=dict('
            f'data_root={root!r}))\n'
            'model = dict(backbone=dict(init_cfg=None, embed_dims=8, '
            'num_heads=[1, 1, 2, 2], num_layers=[1, 1, 1, 1]), '
            'decode_head=dict(in_channels=[8, 8, 16, 16], channels=8, '
            "norm_cfg=dict(type='BN')))\n"
            "load_from = 'source.pth'\n")
    config = tmp_path / 'mine.py'
    config.write_text(text)
    init_scope()
    model = Config.fromfile(config).model
    torch.manual_seed(0)
    torch.save(
        dict(state_dict=MODELS.build(model).state_dict()),
        tmp_path / 'source.pth')
    run_tool('tools/train.py', config, '--work-dir', 'work', cwd=tmp_path)
    report = json.loads(
        (tmp_path / 'work' / 'adaptation_report.json').read_text())
    assert report['method'] == 'SVDP' and report['frames'] == 2


def test_host_train_script(tmp_path):
    """mmseg's own ``tools/train.py`` runs our config by custom_imports."""
    script = Path(find_spec('mmseg').origin).parent / '.mim/tools/train.py'
    if not script.is_file():
        pytest.skip(f'this mmseg ships no {script}')
    source, config = tmp_path / 'source.pth', tmp_path / 'tiny.py'
    config.write_text(
        CONFIG.format(
            base=str(ROOT / 'configs/svdp/cityscapes_foggy.py'),
            root=write_foggy_cityscapes(tmp_path / 'data', count=1),
            domains=[('fog', dict(beta=0.02))],
            source=str(source)))
    init_scope()
    torch.manual_seed(0)
    torch.save(
        dict(state_dict=MODELS.build(
            Config.fromfile(config).model).state_dict()), source)
    run_tool(script, config, '--work-dir', 'work', cwd=tmp_path)
    assert (tmp_path / 'work' / 'adaptation_report.json').is_file()
