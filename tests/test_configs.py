# Copyright (c) mmext contributors. All rights reserved.
"""Every shipped config is sound, and the model zoo points at real files.

Generic on purpose: a config or metafile that is added is tested by being
there.
"""
import ast
from pathlib import Path

import pytest
import yaml
from mmengine.config import Config

from mmext.utils.config_build import meta_parameters
from mmext.utils.config_check import check_config
from mmext.utils.config_io import (find_config, load_config, package_root,
                                   read_model_index)
from mmext.utils.config_types import config_scope, typed_dicts
from mmext.utils.dependency import has

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = sorted((ROOT / 'configs').rglob('*.py'))
COMPLETE = [c for c in CONFIGS if '_base_' not in c.parts]
METAFILES = sorted((ROOT / 'configs').glob('*/metafile.yml'))


def name(path):
    return str(path.relative_to(ROOT / 'configs'))


def load(path):
    """Read a config, or skip the test if it needs a host that is absent."""
    cfg = load_config(str(path))
    scope = cfg.get('default_scope', 'mmengine')
    if not has(scope):
        pytest.skip(f'{scope} is not installed')
    return cfg


@pytest.mark.stack_subset
@pytest.mark.parametrize('path', COMPLETE, ids=name)
def test_config_is_sound(path):
    cfg = load(path)
    findings = check_config(cfg, allow_missing_paths=True)
    errors = [str(f) for f in findings if f.level == 'error']
    if any('timm' in error for error in errors) and not has('timm'):
        pytest.skip('timm, of the extra `depth`, is not installed')
    assert not errors, '\n'.join(errors)


@pytest.mark.parametrize(
    'path', [c for c in CONFIGS if '_base_' in c.parts], ids=name)
def test_base_config_reads_alone(path):
    Config.fromfile(str(path))


@pytest.mark.parametrize('path', COMPLETE, ids=name)
def test_config_follows_the_house_rules(path):
    cfg = load(path)
    # the host keeps its scope; ours are written mmext.X
    assert cfg.default_scope in ('mmseg', 'mmpretrain')
    if '::' in path.read_text(encoding='utf-8'):
        return  # an example on a host's base, with the host's runtime
    # foreign programs get the shims of mmext
    assert 'mmext' in cfg.custom_imports['imports']
    # text style: a lazy config holds classes instead of names
    assert all(
        isinstance(item.node['type'], str)
        for item in typed_dicts(cfg._cfg_dict))
    # the guarantees of every run
    hooks = {
        str(hook.get('type'))
        for hook in cfg.default_hooks.values() if hook
    }
    assert {
        'mmext.AtomicCheckpointHook', 'mmext.RNGStateHook',
        'mmext.InvalidLossHook'
    } <= hooks
    loop = cfg.get('train_cfg') or {}
    if loop.get('type') == 'mmext.TestTimeAdaptLoop':
        assert cfg.get('val_cfg') is None
        assert cfg.get('load_from'), 'adaptation starts from a source'
        assert cfg.train_dataloader.batch_size == 1
        assert cfg.get('test_dataloader') and cfg.get('test_evaluator')


@pytest.mark.parametrize('path', CONFIGS, ids=name)
def test_config_file_is_plain(path):
    text = path.read_text(encoding='utf-8')
    lines = text.splitlines()
    # the package look-up of mmengine refuses hyphens in folder names
    assert '-' not in path.parent.name
    assert len(lines) <= 130, 'a config fits on one or two screens'
    assert max(map(len, lines)) <= 79
    assert '/work' not in text and '/tmp' not in text
    assert lines[0].startswith('#'), 'the first line says what it is'


def test_meta_parameters_have_no_storage():
    from torch import nn
    with meta_parameters():
        layer = nn.Linear(1000, 1000)
        norm = nn.BatchNorm2d(4)
    assert layer.weight.device.type == 'meta'
    assert norm.running_mean.device.type == 'cpu'
    assert nn.Linear(2, 2).weight.device.type == 'cpu'


# The model zoo ---------------------------------------------------------------


def test_model_index_lists_every_metafile():
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    listed = {p for line in index['Import'] for p in ROOT.glob(line)}
    assert listed == set(METAFILES)


@pytest.mark.parametrize('path', METAFILES, ids=name)
def test_metafile(path):
    meta = yaml.safe_load(path.read_text(encoding='utf-8'))
    collections = {c['Name'] for c in meta['Collections']}
    for collection in meta['Collections']:
        assert (ROOT / collection['README']).is_file()
        code = collection.get('Code', {}).get('URL', '')
        assert code.startswith('http') or (ROOT / code).is_file()
    names = [model['Name'] for model in meta['Models']]
    assert len(set(names)) == len(names)
    for model in meta['Models']:
        # mmpretrain compares raw names with lower-cased ones
        assert model['Name'] == model['Name'].lower()
        assert model['In Collection'] in collections
        assert model['Config'].startswith('configs/')
        assert (ROOT / model['Config']).is_file(), model['Config']
        assert isinstance(model.get('Results', []), list)
        weights = model.get('Weights')
        assert weights is None or '://' in weights or (
            ROOT / weights).is_file(), weights


@pytest.mark.parametrize('path', METAFILES, ids=name)
def test_parameters_of_the_metafile_are_those_of_the_model(path):
    from mmext.utils.config_build import build_model
    for model in yaml.safe_load(path.read_text(encoding='utf-8'))['Models']:
        cfg = load(ROOT / model['Config'])
        with config_scope(cfg._cfg_dict):
            built = build_model(cfg._cfg_dict)
        count = sum(p.numel() for p in built.parameters())
        assert count == model['Metadata']['Parameters'], model['Name']


def test_a_config_is_found_by_its_model_name():
    assert package_root() == ROOT
    for model_name, entry in read_model_index().items():
        assert find_config(model_name) == ROOT / entry['Config']


def test_every_tool_compiles():
    for path in sorted((ROOT / 'tools').rglob('*.py')):
        compile(path.read_text(encoding='utf-8'), str(path), 'exec')


def test_commands_in_the_help_of_tools_keep_their_lines():
    """A backslash at the end of a line would join it with the next one."""
    for path in sorted((ROOT / 'tools').rglob('*.py')):
        help_ = ast.get_docstring(ast.parse(path.read_text(encoding='utf-8')))
        long = [line for line in (help_ or '').splitlines() if len(line) > 79]
        assert not long, f'{path}: {long}'
