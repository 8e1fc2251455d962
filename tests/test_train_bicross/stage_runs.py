# Copyright (c) mmext contributors. All rights reserved.
"""Runs of the stages, by the tool and alone, and what they leave."""
import json

from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmext.engine.hooks import MeanTeacherHook
from mmext.registry import HOOKS
from mmext.utils.io import safe_load
from ..tool_fixtures import tool
from ..toy_runs import quick_runner

STEM = 'backbone.vit.patch_embed.backbone.stem.conv.weight'
NO_VAL = dict(val_cfg=None, val_dataloader=None, val_evaluator=None)


def drive(*arguments):
    """tools/train_bicross.py in this process."""
    with quick_runner():
        tool('train_bicross').main([str(one) for one in arguments])


def weights(path):
    return safe_load(path)['state_dict']


def handed_over(stages, stage):
    note = stages / 'work' / f'stage{stage}' / 'finished.json'
    return json.loads(note.read_text())['checkpoint']


@HOOKS.register_module(force=True)
class _Record(Hook):
    """States of student and teacher after each iteration."""
    priority = 'VERY_LOW'
    seen: list = []

    def before_train(self, runner):
        self._keep(runner)

    def after_train_iter(self, runner, **kwargs):
        self._keep(runner)

    def _keep(self, runner):
        mean = next(
            (h for h in runner.hooks if isinstance(h, MeanTeacherHook)), None)
        copies = [runner.model.state_dict(), runner.model.teacher.state_dict()]
        if mean is not None:
            copies[1] = mean.teacher.module.state_dict()
        self.seen.append([{
            k: v.clone()
            for k, v in one.items()
        } for one in copies])


def run(config, work, **options):
    """Train one stage; what was recorded."""
    cfg = Config.fromfile(config)
    cfg.work_dir, cfg.experiment_name = str(work), work.name
    cfg.visualizer.name = work.name
    cfg.custom_hooks.append(dict(type='_Record', _scope_='mmext'))
    cfg.merge_from_dict(options)
    _Record.seen = []
    with quick_runner():
        runner = Runner.from_cfg(cfg)
        runner.train()
    return runner, _Record.seen
