# Copyright (c) mmext contributors. All rights reserved.
"""Tools that compare methods, and examples on a host's own files."""
import json
from importlib.util import find_spec
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

pytest.importorskip('mmseg')

from mmengine.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from mmext.engine.loops.adaptation_report import prediction_path  # noqa: E402
from mmext.registry import DATASETS  # noqa: E402
from mmext.spike import write_depth_png  # noqa: E402
from mmext.utils.user_error import UserError  # noqa: E402
from mmext.visualization import colour_depth  # noqa: E402
from .data_fixtures import write_acdc, write_foggy_cityscapes  # noqa: E402
from .depth_runs import (SIZE, SOURCE, SVDP,  # noqa: E402
                         depth_adaptation_config)
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
    loaded = plot.load_reports(runs)
    lines = plot.along_stream(loaded, ['source', 'SVDP'])
    scores = report['methods']['SVDP']['domains']
    assert dict(zip(*lines['SVDP'])) == pytest.approx(
        {f'r1 {name}': value for name, value in scores.items()})
    lines = plot.against_setting(loaded, 'train_cfg.method.mc_passes',
                                 'train_cfg.method.type')
    assert list(lines) == ['train_cfg.method.type = mmext.SVDP']
    assert lines['train_cfg.method.type = mmext.SVDP'][0] == [2]
    plot.draw(lines, 'mc_passes', str(tmp_path / 'curve.png'))
    assert (tmp_path / 'curve.png').stat().st_size > 0
    with pytest.raises(UserError, match='No run has train_cfg.method.nothing'):
        plot.against_setting(loaded, 'train_cfg.method.nothing', None)
    with pytest.raises(UserError, match='not the work folder'):
        plot.load_reports([tmp_path])


def test_compare_adaptation_names_the_log_of_a_failure(tmp_path):
    config = write_adaptation(tmp_path, 'source',
                              dict(type='mmext.SourceOnly'),
                              plain_pipeline(BASE))
    (tmp_path / 'source.pth').write_bytes(b'no checkpoint')
    output = run_tool(
        'tools/analysis_tools/compare_adaptation.py', config, '--work-dir',
        'out', cwd=tmp_path, code=1)
    assert 'source.pth' in output and 'log.txt' in output
    assert 'Traceback' not in output


def test_compare_adaptation_reads_every_config_first(tmp_path):
    """No run is started before all configs are known to be able to."""
    compare = tool('analysis_tools/compare_adaptation')
    trains = str(ROOT / 'configs/svdp/streetworld_source_segformer-b0.py')
    adapts, absent = [
        str(write_adaptation(tmp_path, name, dict(type='mmext.SourceOnly'),
                             plain_pipeline(BASE)))
        for name in ('adapts', 'absent')
    ]
    compare.check_configs([adapts], {'train_cfg.reset': 'domain'})
    for configs, options, part in (
        ([adapts, trains], {}, 'does not adapt'),
        ([adapts, 'nowhere.py'], {}, 'nowhere.py'),
        ([adapts], {'train_dataloader.dataset.domains.fog.pipeline.99.x': 1},
         'does not fit'),
    ):
        with pytest.raises(UserError, match=part):
            compare.check_configs(configs, options)
    cfg = Config.fromfile(absent)
    cfg.load_from = 'gone.pth'
    cfg.dump(absent)
    with pytest.raises(UserError, match='gone.pth'):
        compare.run_folder(absent, 0, tmp_path / 'run', {}, check=True)
    compare.run_folder(absent, 0, tmp_path / 'run', {}, check=False)
    compare.run_folder(adapts, 0, tmp_path / 'run', {}, check=True)
    compare.check_configs([adapts], {'resume': False})  # the Runner's
    for configs, options, part in (
        ([adapts], {'trainer.x': 1}, 'would change nothing'),
        ([adapts, f'elsewhere/{Path(adapts).name}'], {}, 'same file name'),
    ):
        with pytest.raises(UserError, match=part):
            compare.check_configs(configs, options)
    with pytest.raises(SystemExit):
        compare.parse_args([adapts, '--seeds', '0', '0'])


def test_sheet_of_a_plain_data_set(tmp_path):
    """The loop takes any data set, and so does the sheet."""
    path = write_adaptation(tmp_path, 'source', dict(type='mmext.SourceOnly'),
                            plain_pipeline(BASE))
    cfg = Config.fromfile(str(path))
    cfg.train_dataloader.dataset = cfg.train_dataloader.dataset.domains.fog
    cfg.dump(str(path))
    sheet = tool('analysis_tools/contact_sheet')
    sheet.write_contact_sheet(
        str(path), {'train_cfg.save_predictions': True}, {},
        tmp_path / 'sheet.png')
    assert (tmp_path / 'sheet.png').stat().st_size > 0


def test_compare_adaptation_of_depth():
    """AbsRel with four decimals; never beside mIoU."""
    compare = tool('analysis_tools/compare_adaptation')

    def summary(name, value, **more):
        return compare.summarise('SVDP', [
            dict(report=nested(name, value, **more), seed=seed, frames=2,
                 oracle=[], settings={}, seconds_per_frame=0.1)
            for seed in (0, 1)
        ])

    depth = summary('abs_rel', 0.25, main='abs_rel', digits=4)
    classes = summary('mIoU', 30.)
    assert '**0.2500 ± 0.0000**' in compare.markdown(dict(SVDP=depth))
    assert '**30.00 ± 0.00**' in compare.markdown(dict(SVDP=classes))
    with pytest.raises(UserError, match='classes with depth'):
        compare.markdown(dict(a=depth, b=classes))


def nested(name, value, **more):
    """Scores of one visit, as a report holds them."""
    return {
        'rounds': dict(r1=dict(fog={name: value}, night={name: value})),
        'domains': dict(fog=value, night=value),
        name: value,
        **more
    }


def test_plots_read_each_report_once_and_never_mix(tmp_path, monkeypatch):
    plot = tool('analysis_tools/plot_adaptation')
    runs = {
        'a': nested('abs_rel', 0.25, main='abs_rel', digits=4),
        'b': nested('abs_rel', 0.5, main='abs_rel', digits=4),
        'classes': nested('mIoU', 30.),
        'unscored': nested('mIoU', None)
    }
    for name, report in runs.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / 'adaptation_report.json').write_text(
            json.dumps(dict(report=report)))
    read, drawn = [], []
    load = plot.load_report
    monkeypatch.setattr(plot, 'load_report',
                        lambda run: read.append(run.name) or load(run))
    monkeypatch.setattr(plot, 'draw', lambda *args: drawn.append(args))

    def main(*names):
        folders = [str(tmp_path / name) for name in names]
        monkeypatch.setattr('sys.argv', ['x', *folders, '--out', 'x.png'])
        plot.main()

    main('a', 'b')
    assert read == ['a', 'b']
    lines, x, _, unit = drawn[0]
    assert (x, unit) == ('visit', 'abs_rel')
    assert lines[str(tmp_path / 'b')] == (['r1 fog', 'r1 night'], [0.5, 0.5])
    main('classes')
    assert drawn[1][3] == 'mIoU (%)'
    with pytest.raises(UserError, match='classes with depth.*abs_rel.*mIoU'):
        main('a', 'classes')
    with pytest.raises(UserError, match='no labels'):
        main('a', 'unscored')
    assert len(drawn) == 2


def test_sheet_of_depth(tmp_path, monkeypatch):
    """Spikes by playback, truth and every method, of both weathers."""
    compare = tool('analysis_tools/compare_adaptation')
    monkeypatch.syspath_prepend(str(ROOT / 'tools' / 'analysis_tools'))
    configs = []
    for name, method in (('svdp', SVDP), ('source', SOURCE)):
        cfg = depth_adaptation_config(tmp_path, method, tmp_path / 'cache')
        configs.append(str(tmp_path / f'{name}.py'))
        cfg.dump(configs[-1])
    init_scope()
    stream = DATASETS.build(cfg.train_dataloader.dataset)

    def run_one(config, seed, path, options):
        assert options['train_cfg.save_predictions']
        for k in range(len(stream)):
            file = Path(prediction_path(
                str(path), stream.visit_at(k),
                stream.get_data_info(k)['img_path']))
            file.parent.mkdir(parents=True, exist_ok=True)
            write_depth_png(file, np.full(SIZE, 10.), 256.)
        return dict(
            report=nested('abs_rel', 0.25, main='abs_rel', digits=4),
            method=Path(config).stem, seed=seed, frames=4, oracle=[],
            settings={}, seconds_per_frame=0.1)

    monkeypatch.setattr(compare, 'run_one', run_one)
    monkeypatch.setattr('sys.argv', [
        'x', *configs, '--sheet', '--work-dir', str(tmp_path / 'out')
    ])
    compare.main()
    sheet = cv2.imread(str(tmp_path / 'out' / 'contact_sheet.png'))
    # spikes, truth and two methods; a title of 18 pixels above each
    assert sheet.shape == (2 * (128 + 18), 4 * 256, 3)
    spikes, truth, first, second = np.split(sheet[18:146], 4, axis=1)
    assert (spikes == spikes[..., :1]).all() and spikes.std() > 5
    assert len(np.unique(truth.reshape(-1, 3), axis=0)) > 10
    expected = colour_depth(np.full(SIZE, 10.))[0, 0]
    assert (first == expected).all() and (second == expected).all()


def test_sheet_of_cropped_images(tmp_path):
    """The largest plain view is pasted where the crop was taken."""
    sheet = tool('analysis_tools/contact_sheet')
    meta = dict(ori_shape=(12, 20), crop_box=(4, 2, 8, 16))
    views = [(4, False, 50), (8, False, 100), (8, True, 200)]
    stream = [
        dict(
            inputs=[
                torch.full((3, size, 2 * size), level, dtype=torch.uint8)
                for size, _, level in views
            ],
            data_samples=[
                SegDataSample(metainfo=dict(meta, flip=flip))
                for _, flip, _ in views
            ])
    ]
    path = str(tmp_path / 'depth.png')
    write_depth_png(path, np.full((12, 20), 5.), 256.)
    image, maps = sheet.depth_pictures(stream, 0, dict(SVDP=path), max_depth=5)
    assert image.shape == (12, 20, 3) and set(maps) == {'SVDP'}
    assert (image[4:, 2:18] == 100).all()
    assert image.sum() == 100 * 8 * 16 * 3
    assert (maps['SVDP'] == colour_depth(np.full((12, 20), 5.),
                                         max_depth=5)).all()


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


def test_a_stopped_run_is_not_compared(tmp_path):
    """Part of a stream has other scores than the whole."""
    read = tool('analysis_tools/compare_adaptation').read_report
    path = tmp_path / 'adaptation_report.json'
    path.write_text(json.dumps(dict(frames=4, stream_frames=4, stopped=False)))
    assert read('a.py', path)['frames'] == 4
    path.write_text(json.dumps(dict(frames=1, stream_frames=4, stopped=True)))
    with pytest.raises(UserError, match='after 1 of 4 frames'):
        read('a.py', path)
