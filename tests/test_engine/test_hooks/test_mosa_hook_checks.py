# Copyright (c) mmext contributors. All rights reserved.
"""What MoSAHook refuses before a training begins."""
import pytest

pytest.importorskip('mmpretrain')

from mmext.engine.hooks import MoSAHook  # noqa: E402
from mmext.models.adapters.checkpoint import read_adapter  # noqa: E402
from mmext.models.adapters.checkpoint import save_adapter
from mmext.utils.config_build import build_findings  # noqa: E402
from mmext.utils.config_types import config_scope  # noqa: E402
from mmext.utils.user_error import ConfigError, UserError  # noqa: E402
from ...tiny_classifiers import adaptformer, build, vit  # noqa: E402
from ...toy_runs import quick_runner  # noqa: E402
from .test_mosa_hook import runner, train  # noqa: E402


def test_two_hooks(tmp_path):
    """Draws would be made and counted twice."""
    with pytest.raises(ConfigError, match='more than one MoSAHook'):
        train(tmp_path, hooks=[dict(type='mmext.MoSAHook')])


@pytest.mark.parametrize('name, text', [
    ('', "but got ''"), ('a.pth', 'a.safetensors'), ('sub/a.pkl', r'\.pkl')])
def test_names_that_are_none_of_an_adapter(
        tmp_path, monkeypatch, name, text):
    """Told when the hook is built, so by a check of the config, too."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=text):
        MoSAHook(export=name)
    with pytest.raises(UserError, match=text):
        save_adapter(build(), name)
    assert not list(tmp_path.iterdir())
    cfg = dict(
        model=dict(type='mmext.MoSAModel', module=vit(),
                   adapter=adaptformer()),
        custom_hooks=[dict(type='mmext.MoSAHook', export=name)],
        default_scope='mmpretrain')
    with config_scope(cfg):
        found = [f for f in build_findings(cfg) if 'hooks' in f[1]]
    assert [f[0] for f in found] == ['error'], found


@pytest.mark.parametrize('place', ['afile/a', 'afile', '/proc/nope/a'])
def test_places_that_cannot_be_written(tmp_path, place):
    """Tried before the training instead of after it."""
    (tmp_path / 'afile').write_text('x')
    made = runner(tmp_path, length=2)
    hook = next(h for h in made.hooks if isinstance(h, MoSAHook))
    hook.export = place
    with quick_runner(), pytest.raises(UserError) as caught:
        made.train()
    assert place in str(caught.value)
    assert not list(tmp_path.glob('*.pth')) and not made.watch.tables


def test_export_into_new_folders(tmp_path):
    made = runner(tmp_path, length=2)
    hook = next(h for h in made.hooks if isinstance(h, MoSAHook))
    hook.export = 'x/y/cub.safetensors'
    with quick_runner():
        made.train()
    assert read_adapter(tmp_path / 'x/y/cub.safetensors')[1]
