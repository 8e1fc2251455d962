# Copyright (c) mmext contributors. All rights reserved.
r"""Write a checkpoint of the whole model with its adapter merged.

LoRA, MoSL and SSF are folded into the host's weights: the output is a
checkpoint of the plain host, for its own config and tools. Bottleneck
adapters become standard ones: the output is for ``CONFIG`` with
``num_modules=1``.

``SOURCE`` is a checkpoint of a run with ``CONFIG`` or an adapter::

    python tools/model_converters/merge_adapter.py CONFIG adapters/cub \
        work_dirs/cub_merged.pth
"""
import argparse

import mmengine
from mmengine.logging import MMLogger

from mmext.apis.adapters import tuned_from
from mmext.utils.config_check import merge_known_options
from mmext.utils.config_io import CfgOptions, load_config
from mmext.utils.io import atomic_save
from mmext.utils.user_error import UserError, run_tool
from mmext.version import __version__

FOLDED = ('LoRA', 'SSF', 'BitFit', 'LinearProbe', 'FullFineTune')


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config of the host or of the run')
    parser.add_argument('source', help='checkpoint (.pth) or adapter')
    parser.add_argument('out', help='checkpoint to write')
    parser.add_argument(
        '--backbone',
        metavar='CHECKPOINT',
        help='the whole host, where SOURCE is an adapter. Default: what the '
        'config loads')
    parser.add_argument(
        '--no-check',
        action='store_true',
        help='accept other frozen weights than the adapter was trained on')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        default={},
        help='settings to override, key=value')
    return parser.parse_args(argv)


def _check_fits(state: dict, host: set) -> None:
    """Refuse weights that the plain host's config would leave out."""
    added = sorted(set(state) - host)
    if added:
        raise UserError(
            f'SSF gives biases to layers that have none in the host, such as '
            f'{added[0]} ({len(added)} in all), so its config would leave '
            'them out of a merged checkpoint, and compute something else. '
            'Use the adapter as a file (tools/model_converters/'
            'export_adapter.py), or merge_and_unload() in your program.')


def main(argv=None) -> None:
    args = parse_args(argv)
    # Building a model logs every parameter.
    MMLogger.get_instance('mmext', log_level='WARNING')
    cfg = load_config(args.config)
    merge_known_options(cfg, args.cfg_options)
    model = tuned_from(cfg, args.source, args.backbone, not args.no_check)
    for name in set(model.adapter_cfgs) - {model.active_adapter}:
        model.delete_adapter(name)
    kind = model.plan_of(model.active_adapter).type
    try:
        if kind in FOLDED:
            host = set(model.state_dict())
            state = model.merge_and_unload().state_dict()
            _check_fits(state, host)
            use = 'the plain host'
        else:
            model.collapse()
            state = model.state_dict()
            use = 'the config of the model with num_modules=1'
    except RuntimeError as error:
        raise UserError(str(error)) from error
    meta = dict(mmext=__version__, mmengine=mmengine.__version__, merged=kind)
    atomic_save(dict(state_dict=state, meta=meta), args.out)
    print(f'{args.out}: {len(state)} tensors, for {use}')


if __name__ == '__main__':
    run_tool(main)
