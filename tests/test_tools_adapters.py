# Copyright (c) mmext contributors. All rights reserved.
"""The adapter tools as a user runs them, on a tiny classifier."""
import json

import pytest
import torch

from .tool_fixtures import run_tool, tool

pytest.importorskip('mmpretrain')

from mmext.apis.adapters import build_host, build_tuned  # noqa: E402
from mmext.models.adapters import (AdapterError, load_adapter,  # noqa: E402
                                   model_from_adapter, read_adapter,
                                   save_adapter)
from mmext.utils.config_io import load_config  # noqa: E402
from mmext.utils.io import CheckpointError  # noqa: E402
from mmext.utils.user_error import UserError  # noqa: E402
from .tiny_classifiers import batch, build, swin, total_loss, vit  # noqa: E402

EXPORT = 'model_converters/export_adapter'
MERGE = 'model_converters/merge_adapter'
REPORT = 'analysis_tools/peft_report'


def write(path, model):
    path.write_text(f"default_scope = 'mmpretrain'\nmodel = {model!r}\n")
    return path


def config(module, **options):
    adapter = dict(type='AdaptFormer', bottleneck=4, drop_rate=0.)
    return dict(dict(type='mmext.MoSAModel', module=module, adapter=adapter),
                **options)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """Folder with configs, the host's checkpoint and those of two runs."""
    folder = tmp_path_factory.mktemp('adapters')
    host = vit()
    lora = dict(type='LoRA', rank=4, targets='qkvo')
    write(folder / 'host.py', host)
    write(folder / 'mosa.py', config(host))
    write(folder / 'mosl.py', config(host, adapter=lora, split='both'))
    models = dict(
        mosa=build(host, double=False, perturb=True),
        mosl=build(host, lora, double=False, perturb=True, split='both'))
    for name, model in models.items():
        x, samples = batch(model)
        total_loss(model.train(), x, samples).backward()
        torch.save(
            dict(state_dict=model.state_dict(), mosa=model.draw_state()),
            folder / f'{name}.pth')
        plain = {k: v for k, v in model.state_dict().items()
                 if '.mosa.' not in k}
        torch.save(dict(state_dict=plain), folder / f'{name}_host.pth')
    return folder, models


def scores(model):
    x = batch(model)[0]
    with torch.no_grad():
        return model.eval()(x)


def test_export_and_merge(run):
    """A run's checkpoint becomes adapters of both flavours and a program;
    the adapter and the host become one checkpoint."""
    folder, models = run
    text = run_tool(f'tools/{EXPORT}.py', 'mosa.py', 'mosa.pth', 'task',
                    '--program', 'task.pt2', '--size', '16', '16', cwd=folder)
    assert 'MB' in text
    cfg, tensors = read_adapter(folder / 'task')
    assert cfg['flavour'] == 'training'
    own = models['mosa'].state_dict()
    assert torch.equal(tensors['backbone.layers.0.mosa.up.weight'],
                       own['backbone.layers.0.mosa.default.up.weight'])
    expected = scores(models['mosa'])
    program = torch.export.load(folder / 'task.pt2').module()
    x = batch(models['mosa'])[0]
    torch.testing.assert_close(program(x), expected)
    assert program(x[:1]).shape == (1, 5)

    tool(EXPORT).main([str(folder / 'mosa.py'), str(folder / 'task'),
                       str(folder / 'merged.safetensors'), '--merged',
                       '--backbone', str(folder / 'mosa_host.pth')])
    assert read_adapter(folder / 'merged.safetensors')[0][
        'flavour'] == 'merged'
    tool(MERGE).main([str(folder / 'host.py'), str(folder / 'task'),
                      str(folder / 'whole.pth'), '--backbone',
                      str(folder / 'mosa_host.pth')])
    standard = build(vit(), double=False, num_modules=1)
    standard.load_state_dict(
        torch.load(folder / 'whole.pth', weights_only=True)['state_dict'])
    torch.testing.assert_close(scores(standard), expected)


def test_biases_that_the_plain_host_has_not(run):
    """A config would leave them out and compute something else."""
    folder, _ = run
    ssf = dict(type='SSF')
    write(folder / 'ssf.py', config(swin(), adapter=ssf, num_modules=1))
    model = build(swin(), ssf, double=False, perturb=True, num_modules=1)
    torch.save(dict(state_dict=model.state_dict()), folder / 'ssf.pth')
    with pytest.raises(UserError, match='downsample.reduction.bias'):
        tool(MERGE).main([str(folder / name) for name in
                          ('ssf.py', 'ssf.pth', 'ssf_merged.pth')])
    assert not (folder / 'ssf_merged.pth').exists()


def test_an_adapter_of_several(run):
    """``--name``; the host that an adapter begins with is ``load_from``."""
    folder, models = run
    model = build(vit(), double=False)
    model.load_state_dict(models['mosa'].state_dict())
    model.add_adapter('cub', num_modules=2)
    torch.save(dict(state_dict=model.state_dict(), mosa=model.draw_state()),
               folder / 'two.pth')
    command = [str(folder / 'mosa.py'), str(folder / 'two.pth'),
               str(folder / 'cub'), '--name']
    tool(EXPORT).main([*command, 'cub'])
    cfg, _ = read_adapter(folder / 'cub')
    assert (cfg['name'], cfg['split']['num_modules']) == ('cub', 2)
    with pytest.raises(UserError, match='has cub, default'):
        tool(EXPORT).main([*command, 'dogs'])
    text = (folder / 'host.py').read_text()
    begun = folder / 'begun.py'
    begun.write_text(f'{text}load_from = {str(folder / "mosa_host.pth")!r}\n')
    tool(MERGE).main([str(begun), str(folder / 'cub'),
                      str(folder / 'begun.pth')])
    begun.write_text(f"{text}load_from = 'gone.pth'\n")
    with pytest.raises(UserError, match='gone.pth, is missing'):
        tool(MERGE).main([str(begun), str(folder / 'cub'),
                          str(folder / 'begun.pth')])


def test_adapters_with_heads_of_their_own(run, tmp_path):
    """Other classes, and a checkpoint that was written with that adapter in
    use, or without the config's: each is exported with its own head."""
    folder, models = run
    model = build(vit(), double=False)
    model.load_state_dict(models['mosa'].state_dict())
    # not of the kind that a config file could hold
    model.add_adapter('cub', head=dict(
        type=type(model.head), num_classes=3, in_channels=16))
    model.add_adapter('dogs')
    heads = {'default': model.head, **{n: model.mosa_tasks[n]['head']
                                       for n in ('cub', 'dogs')}}
    for number, (name, part) in enumerate(heads.items()):
        part.fc.bias.data.fill_(number)
    command = [str(folder / 'mosa.py'), str(tmp_path / 'three.pth')]
    for active in ('default', 'cub', 'alone'):
        model.set_active(active if active != 'alone' else 'cub')
        if active == 'alone':
            model.delete_adapter('default')
            model.delete_adapter('dogs')
        torch.save(dict(state_dict=model.state_dict(),
                        mosa=model.draw_state()), tmp_path / 'three.pth')
        for number, name in enumerate(heads):
            if name in model.adapter_names:
                out = tmp_path / active / name
                tool(EXPORT).main([*command, str(out), '--name', name])
                tensors = read_adapter(out)[1]
                assert tensors['head.fc.bias'].tolist() == [number] * (
                    3 if name == 'cub' else 5)
        # without a name it is the config's, while that is there
        tool(EXPORT).main([*command, str(tmp_path / 'unnamed')])
        assert read_adapter(tmp_path / 'unnamed')[0]['name'] == (
            'default' if active != 'alone' else 'cub')
    # a host of other classes takes the file, for merging too
    again = build(vit(), double=False)
    again.load_state_dict(models['mosa'].state_dict())
    load_adapter(again, tmp_path / 'cub/cub')
    again.set_active('cub')
    assert again.head.fc.bias.tolist() == [1.] * 3
    assert again.head.num_classes == again.head.fc.out_features == 3
    assert scores(again).shape[1] == 3
    tool(MERGE).main([str(folder / 'host.py'), str(tmp_path / 'cub/cub'),
                      str(tmp_path / 'merged.pth'), '--backbone',
                      str(folder / 'mosa_host.pth')])


def test_a_file_that_is_no_checkpoint(run, tmp_path):
    folder, _ = run
    torch.save([1, 2], tmp_path / 'list.pth')
    with pytest.raises(CheckpointError, match='it is a list'):
        build_tuned(load_config(str(folder / 'mosa.py')),
                    tmp_path / 'list.pth')


def test_a_head_in_a_file_is_not_built(run, tmp_path):
    """A config can name any function; nothing in a file is run."""
    folder, models = run
    save_adapter(models['mosa'], tmp_path / 'a', name='default')
    file = tmp_path / 'a/adapter_config.json'
    cfg = json.loads(file.read_text())
    cfg['head'] = dict(type='os.mkdir', path=str(tmp_path / 'made'))
    file.write_text(json.dumps(cfg))
    model = build(vit(), double=False)
    model.load_state_dict(models['mosa'].state_dict())
    load_adapter(model, tmp_path / 'a', name='again')
    cfg['model']['data_preprocessor'] = cfg['head']
    file.write_text(json.dumps(cfg))
    with pytest.raises(AdapterError, match='unknown keys: data_preprocessor'):
        model_from_adapter(vit(), tmp_path / 'a', check=False)
    state = models['mosa'].draw_state()
    state['options']['evil'] = dict(state['options']['default'],
                                    head=cfg['head'])
    torch.save(dict(state_dict=models['mosa'].state_dict(), mosa=state),
               tmp_path / 'evil.pth')
    with pytest.raises(UserError, match='cannot be put into'):
        build_tuned(load_config(str(folder / 'mosa.py')),
                    tmp_path / 'evil.pth')
    assert not (tmp_path / 'made').exists()


def test_merge_folds_mosl(run):
    """The output is a checkpoint of the plain host."""
    folder, models = run
    text = run_tool(f'tools/{MERGE}.py', 'mosl.py', 'mosl.pth', 'folded.pth',
                    cwd=folder)
    assert 'for the plain host' in text
    state = torch.load(folder / 'folded.pth', weights_only=True)['state_dict']
    model = build(vit(), dict(type='LinearProbe'), double=False)
    model.load_state_dict(state)
    torch.testing.assert_close(scores(model), scores(models['mosl']))


def test_modules_from_a_standard_adapter(run):
    """``--from-standard`` writes modules that compute the same."""
    folder, models = run
    standard = build(vit(), double=False, num_modules=1, perturb=True)
    plain = {k: v for k, v in standard.state_dict().items()
             if '.mosa.' not in k}
    torch.save(plain, folder / 'standard_host.pth')
    save_adapter(standard, folder / 'standard')
    tool(EXPORT).main([str(folder / 'mosa.py'), str(folder / 'standard'),
                       str(folder / 'warm'), '--from-standard', '--backbone',
                       str(folder / 'standard_host.pth')])
    cfg, tensors = read_adapter(folder / 'warm')
    assert cfg['split']['num_modules'] == 4
    model = build(vit(), double=False)
    own = model.state_dict()
    model.load_state_dict({**own, **plain})
    from mmext.models.adapters import load_adapter
    load_adapter(model, folder / 'warm')
    torch.testing.assert_close(scores(model), scores(standard))


def test_report(run):
    """Property 23: unique is the standard adapter's size."""
    folder, models = run
    text = run_tool(f'tools/{REPORT}.py', 'mosa.py', '--out', 'report.json',
                    cwd=folder)
    report = json.loads((folder / 'report.json').read_text())
    down, up, norm = 16 * 4 + 4, 16 * 4, 2 * 16
    sums = report['adapter']
    assert sums['unique'] == 2 * (down + up + 16 + norm)
    assert sums['stored'] == sums['trained'] == \
        2 * (down + up + 4 * 16 + norm)
    drawn = 1 - (3 / 4)**2
    assert sums['per_step'] == pytest.approx(
        2 * (down + norm + drawn * (up + 4 * 16)), abs=1)
    assert report['head_and_host'] == 16 * 5 + 5
    assert report['trainable'] == sums['stored'] + 85
    host = sum(p.numel() for n, p in models['mosa'].named_parameters()
               if '.mosa.' not in n)
    assert report['total'] == host + sums['unique']
    row = report['layers'][1]
    assert row['place'] == 'backbone.layers.1' and row['active']
    assert row['num_modules'] == 4 and not row['merged']
    assert 'backbone.layers.1' in text and 'float32' in text


def test_report_of_an_adapter_with_other_classes(run, capsys):
    """``--head`` is for heads of another kind."""
    folder, _ = run
    for name, kind in (('birds', 'LinearClsHead'),
                       ('deep', 'StackedLinearClsHead')):
        model = build_tuned(load_config(str(folder / 'mosa.py')))
        head = dict(type=kind, num_classes=3, in_channels=16)
        if name == 'deep':
            head['mid_channels'] = [8]
        model.add_adapter(name, head=head)
        save_adapter(model, folder / name, name=name)
    arguments = [str(folder / 'mosa.py'), '--adapter']
    tool(REPORT).main([*arguments, str(folder / 'birds')])
    assert 'birds' in capsys.readouterr().out
    arguments.append(str(folder / 'deep'))
    with pytest.raises(AdapterError, match='--head of peft_report.py'):
        tool(REPORT).main(arguments)
    tool(REPORT).main(arguments + [
        '--head', 'type=StackedLinearClsHead', 'num_classes=3',
        'in_channels=16', 'mid_channels=[8]'
    ])
    assert 'deep' in capsys.readouterr().out


def test_top_level_preprocessor(tmp_path):
    """Hosts of a config normalise as in its runner."""
    text = dict(mean=[1.] * 3, std=[2.] * 3)
    for name, model in (('host', vit()), ('mosa', config(vit()))):
        path = write(tmp_path / f'{name}.py', model)
        path.write_text(path.read_text() + f'data_preprocessor = {text!r}\n')
        cfg = load_config(str(path))
        assert build_host(cfg).data_preprocessor._enable_normalize
    assert build_tuned(cfg).data_preprocessor._enable_normalize


def test_mistakes_end_in_one_message(run):
    """Exit code 2, what to do, no traceback, nothing written."""
    folder, _ = run
    out = folder / 'nothing'
    for name, args, message in (
            (EXPORT, ('mosl.py', 'mosa.pth', out), 'does not fit'),
            (EXPORT, ('host.py', 'mosa.pth', out), 'mmext.MoSAModel'),
            (MERGE, ('host.py', 'mosa.pt', out), 'pickle'),
            (MERGE, ('host.py', 'missing', out), 'there is no'),
            (REPORT, ('host.py', ), 'mmext.MoSAModel')):
        with pytest.raises(Exception) as info:
            tool(name).main([str(folder / a) for a in args])
        assert message in str(info.value)
        assert getattr(info.value, 'exit_code', None) == 2
    text = run_tool(f'tools/{MERGE}.py', 'host.py', 'mosl_host.pth', out,
                    cwd=folder, code=2)
    assert 'Error: ' in text and 'Traceback' not in text
    assert not out.exists()


def test_benchmark(tmp_path):
    """A short run writes every row; targets are judged elsewhere."""
    run_tool('tools/benchmarks/peft.py', '--out', 'out.json', '--size', '32',
             '--batch', '1', '--repeats', '1', '--device', 'cpu',
             cwd=tmp_path)
    rows = json.loads((tmp_path / 'out.json').read_text())
    assert all(set(row) == {'name', 'value', 'unit', 'target', 'ok'}
               for row in rows)
    values = {row['name']: row['value'] for row in rows}
    assert len(values) == len(rows)
    assert set(values) == {
        'step_seconds', 'step_over_standard_same_passes',
        'step_over_standard_one_pass', 'step_over_replicated',
        'step_over_sequential', 'memory_megabytes',
        'memory_over_standard_same_passes', 'memory_over_standard_one_pass',
        'memory_over_replicated', 'memory_over_sequential',
        'memory_over_full_fine_tuning_one_pass',
        'merged_inference_over_standard',
        'merged_inference_over_plain_backbone',
        'unmerged_inference_over_merged'}
    assert {row['name']: row['target'] for row in rows if row['target']} == {
        'step_over_standard_same_passes': 1.05,
        'memory_over_standard_same_passes': 1.05,
        'merged_inference_over_standard': 1.05}
    # Counted from the sizes of tensors, so the same in every run: the
    # compact storage adds owners and biases, the replicated one 3.4 %.
    assert 1 < values['memory_over_standard_same_passes'] < 1.02
    assert values['memory_over_replicated'] < 0.99
