# Copyright (c) mmext contributors. All rights reserved.
r"""Train BiCross: RGB, then spikes, then another domain, in one command.

Each stage is a config of its own for a stock runner, and starts from what
the stage before has written:

1. supervised depth on source RGB;
2. cross modality: an RGB teacher and a spike student on paired views;
3. cross domain: labelled source spikes, unlabelled target spikes.

    python tools/train_bicross.py --stage1 A.py --stage2 B.py --stage3 C.py

A config may name the three instead, by paths relative to itself:

    stages = dict(stage1='A.py', stage2='B.py', stage3='C.py')
"""
import argparse
import gc
import json
import logging
import os.path as osp
from datetime import datetime
from pathlib import Path
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.logging import print_log
from mmengine.runner import Runner

from mmext.utils.config_changes import changed_options, trained_options
from mmext.utils.config_io import STAGES, load_config, named_stages
from mmext.utils.config_paths import checkpoint_place, find_checkpoint
from mmext.utils.io import write_json
from mmext.utils.launch import (add_common_arguments, build_runner, enable_amp,
                                finish_config, parse, set_loader_defaults,
                                set_resume)
from mmext.utils.preflight import preflight
from mmext.utils.user_error import UserError, run_tool

NOTE = 'finished.json'


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Train the stages of BiCross one after another. Configs '
        'are Python code and are executed.')
    parser.add_argument(
        'config',
        nargs='?',
        help='a config with stages=dict(stage1=..., stage2=..., stage3=...)')
    for number, name in enumerate(STAGES, 1):
        parser.add_argument(
            f'--{name}', metavar='CONFIG', help=f'config of stage {number}')
    parser.add_argument(
        '--checkpoint',
        metavar='PATH',
        help='what the first of the given stages starts from; needed when '
        'that is stage 2 (an RGB network) or 3 (a spike network)')
    parser.add_argument(
        '--pick',
        choices=['last', 'best'],
        default='last',
        help='which checkpoint a stage hands over: the last, or the one that '
        "save_best of its checkpoint hook keeps. Best must not mean the "
        "target's labels")
    parser.add_argument(
        '--resume',
        action='store_true',
        help='pass over finished stages and go on in the one that was '
        'interrupted')
    parser.add_argument(
        '--no-validate',
        action='store_true',
        help='do not evaluate during training')
    add_common_arguments(parser)
    parser.epilog = ('--work-dir gets a folder for each stage. A key of '
                     '--cfg-options that begins with stage1., stage2. or '
                     'stage3. is for that stage only.')
    return parse(parser, argv)


def stage_configs(args: argparse.Namespace) -> Dict[str, str]:
    """Which config each stage has.

    Raises:
        UserError: If there is none, or one in the middle is absent.
    """
    found = {}
    if args.config:
        found = named_stages(args.config)
        if not found or not set(found) <= set(STAGES):
            raise UserError(
                f'{args.config} names no stages. Expected stages=dict(stage1='
                "'A.py', stage2='B.py', stage3='C.py') in it, or the options "
                '--stage1, --stage2 and --stage3.')
    for name in STAGES:
        if getattr(args, name):
            found[name] = getattr(args, name)
    order = [name for name in STAGES if name in found]
    if not order:
        raise UserError('Give a config that names the stages, or --stage1, '
                        '--stage2 and --stage3.')
    first, last = (STAGES.index(name) for name in (order[0], order[-1]))
    absent = [name for name in STAGES[first:last] if name not in found]
    if absent:
        raise UserError(f'{order[-1]} starts from what {absent[0]} writes: '
                        f'give --{absent[0]}, too.')
    return {name: found[name] for name in order}


def split_options(options: Optional[dict], stage: str) -> Optional[dict]:
    """``--cfg-options`` for a stage: those of all, then its own."""
    if not options:
        return options
    if 'work_dir' in options:
        raise UserError('The stages write into folders of their own below '
                        '--work-dir: give --work-dir PATH instead of '
                        '--cfg-options work_dir=PATH.')
    mine = {
        key: value
        for key, value in options.items() if key.split('.')[0] not in STAGES
    }
    mine.update({
        key[len(stage) + 1:]: value
        for key, value in options.items() if key.startswith(f'{stage}.')
    })
    return mine


def prepare(stage: str, path: str, args: argparse.Namespace,
            root: str) -> Config:
    """The config of a stage with all options, but no checkpoint yet."""
    cfg = load_config(path)
    if args.no_validate:
        for key in ('val_cfg', 'val_dataloader', 'val_evaluator'):
            cfg[key] = None
    cfg.work_dir = osp.join(root, stage)
    if args.amp:
        enable_amp(cfg)
    set_loader_defaults(cfg, args)
    own = argparse.Namespace(**vars(args))
    own.cfg_options = split_options(args.cfg_options, stage)
    finish_config(cfg, own)
    # runners of one process share visualizers and loggers of one name
    stamp = datetime.now().strftime('%Y%m%d_%H%M%S')
    cfg.experiment_name = f'{stage}_{stamp}_{osp.basename(root)}'
    if cfg.get('visualizer'):
        cfg.visualizer.name = cfg.experiment_name
    return cfg


def has_own_teacher(cfg: Config) -> bool:
    """Whether the teacher may be another network than the student, which
    then does not start from the teacher's checkpoint."""
    return 'student' in cfg.model and cfg.model.get('teacher') is not None


def source_of(cfg: Config) -> Optional[str]:
    """The checkpoint that a stage got from the one before."""
    return cfg.model.get('teacher_ckpt') if has_own_teacher(cfg) else \
        cfg.get('load_from')


def start_from(cfg: Config, stage: str, checkpoint: Optional[str]) -> None:
    """Let a stage begin with a checkpoint.

    Raises:
        UserError: If it needs one and has none, or there is no such file.
    """
    if checkpoint is None:
        checkpoint = source_of(cfg) or cfg.model.get('teacher_ckpt')
    if checkpoint is None:
        if stage == STAGES[0]:
            return
        raise UserError(
            f'{stage} needs a checkpoint to start from: '
            f'{"an RGB network of stage 1" if stage == STAGES[1] else "the spike network of stage 2"}. '  # noqa: E501
            f'Give --checkpoint PATH, or --{STAGES[STAGES.index(stage) - 1]}.')
    found = find_checkpoint(checkpoint)
    if found is None:
        raise UserError(f'{stage} shall start from {checkpoint}, which does '
                        f'not exist. Looked for '
                        f'{checkpoint_place(checkpoint)}.')
    if not has_own_teacher(cfg):
        cfg.load_from = str(found)
    if 'student' in cfg.model:
        cfg.model.teacher_ckpt = str(found)


def best_of(runner: Runner) -> List[str]:
    """What the checkpoint hook of a run, also a resumed one, calls best."""
    return [
        str(path) for key, path in runner.message_hub.runtime_info.items()
        if key == 'best_ckpt' or key.startswith('best_ckpt_')
    ]


def written(folder: str, pick: str, best: Sequence[str] = ()) -> str:
    """The checkpoint that a stage hands over.

    Args:
        folder (str): Its folder.
        pick (str): 'last' or 'best'.
        best (Sequence[str]): Of :func:`best_of`; the newest is taken. What
            else lies in the folder is an older run's. Defaults to ().

    Raises:
        UserError: If it has written none.
    """
    place = Path(folder)
    if pick == 'best':
        # the folder may have been moved since
        files = [Path(path) for path in best]
        files = [
            path if path.is_file() else place / path.name for path in files
        ]
        files = [path for path in files if path.is_file()]
        if not files:
            raise UserError(
                f'The run has written no best_*.pth into {folder}: set '
                "default_hooks.checkpoint.save_best='val_sig' in the config "
                'of that stage, with a validation set that has something to '
                'score, or leave --pick at last.')
        return str(max(files, key=lambda path: path.stat().st_mtime))
    note = place / 'last_checkpoint'
    last = Path(note.read_text().strip()) if note.is_file() else None
    if last is not None and not last.is_file():
        last = place / last.name  # the folder was moved
    if last is None or not last.is_file():
        raise UserError(
            f'{folder} holds no checkpoint to hand over: the stage must write '
            'one at its end. Let default_hooks.checkpoint.interval divide '
            'its iterations, or save_last be True.')
    return str(last)


def finished(folder: str, source: Optional[str]) -> Optional[str]:
    """What a finished stage handed over, if it began with ``source``."""
    note = Path(folder) / NOTE
    if not note.is_file():
        return None
    known = json.loads(note.read_text())
    same = source is None or known['started_from'] == source
    return known['checkpoint'] if same and osp.isfile(
        known['checkpoint']) else None


def tell_changes(cfg: Config, stage: str) -> None:
    """Warn if a finished stage was trained with another config."""
    note = Path(cfg.work_dir) / NOTE
    # notes of older versions have no options
    before = json.loads(note.read_text()).get('options')
    changed = [] if before is None else changed_options(
        before, trained_options(cfg._cfg_dict))
    if changed:
        more = f' and {len(changed) - 5} more' if len(changed) > 5 else ''
        print_log(
            f'{stage} was finished before with other options, and is not '
            f'trained again: {"; ".join(changed[:5])}{more}. Delete {note} to '
            'go on from its last checkpoint with those of now, and train '
            'later stages anew; leave --resume out to train all anew.',
            logger='current',
            level=logging.WARNING)


def run_stage(cfg: Config, stage: str, args: argparse.Namespace) -> str:
    """Train a stage; return the path of what it hands over."""
    source, options = source_of(cfg), trained_options(cfg._cfg_dict)
    note = Path(cfg.work_dir) / NOTE
    if is_main_process():
        note.unlink(missing_ok=True)
        if not args.resume:  # what an older run wrote is not handed over
            (note.parent / 'last_checkpoint').unlink(missing_ok=True)
    # Without last_checkpoint, what lies there is an older run's.
    if args.resume and (note.parent / 'last_checkpoint').is_file():
        set_resume(cfg, 'auto')
    runner = build_runner(cfg)
    runner.train()
    best = best_of(runner)
    del runner
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    barrier()
    checkpoint = written(cfg.work_dir, args.pick, best)
    if is_main_process():
        write_json(
            note,
            dict(checkpoint=checkpoint, started_from=source, options=options))
    return checkpoint


def checked(configs: Dict[str, str], args: argparse.Namespace,
            root: str) -> Dict[str, Tuple[Config, str]]:
    """All stages, after looking for what any would stumble over."""
    stages = {
        name: prepare(name, path, args, root)
        for name, path in configs.items()
    }
    for index, (name, cfg) in enumerate(stages.items()):
        if index == 0:
            start_from(cfg, name, args.checkpoint)
        else:
            if not has_own_teacher(cfg):
                cfg.load_from = None
            if 'student' in cfg.model:
                cfg.model.teacher_ckpt = None
        preflight(cfg, 'train')
    return stages


def main(argv=None) -> None:
    args = parse_args(argv)
    configs = stage_configs(args)
    name = args.config or list(configs.values())[-1]
    root = args.work_dir or osp.join('./work_dirs',
                                     osp.splitext(osp.basename(name))[0])
    checkpoint = None
    for stage, cfg in checked(configs, args, root).items():
        if checkpoint is not None:
            start_from(cfg, stage, checkpoint)
        done = finished(cfg.work_dir, source_of(cfg)) \
            if args.resume else None
        if done is None:
            done = run_stage(cfg, stage, args)
            # what later stages hold began with another network
            args.resume = False
            say = 'wrote'
        else:
            say = 'was finished before and wrote'
            tell_changes(cfg, stage)
        checkpoint = done
        if is_main_process():
            print(f'{stage} {say} {checkpoint}', flush=True)


if __name__ == '__main__':
    run_tool(main)
