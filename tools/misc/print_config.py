# Copyright (c) mmext contributors. All rights reserved.
r"""Print a config with its bases and options merged."""
import argparse
import sys
from pathlib import Path

from mmext.utils.config_io import CfgOptions, load_config, merge_options
from mmext.utils.user_error import run_tool


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Print a config with its bases and options merged. The '
        'config is Python code and is executed: print only configs that you '
        'trust.')
    parser.add_argument(
        'config', help='path of a config, or a name from the model zoo')
    parser.add_argument(
        '--key',
        metavar='A.B.C',
        help='print only this part, such as model.decode_head')
    parser.add_argument(
        '--out', metavar='FILE.py', help='write it to a file too')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='change settings of the config')
    return parser.parse_args(argv)


def main(argv=None) -> None:
    args = parse_args(argv)
    cfg = load_config(args.config)
    merge_options(cfg, args.cfg_options)
    text = cfg.pretty_text if args.key is None else part(cfg, args.key)
    sys.stdout.write(text.rstrip('\n') + '\n')
    if args.out:
        Path(args.out).parent.mkdir(parents=True, exist_ok=True)
        Path(args.out).write_text(text, encoding='utf-8')


def part(cfg, key: str) -> str:
    """The part of a config under a dotted key, as text."""
    from mmengine.config import Config

    from mmext.utils.user_error import UserError
    node = cfg
    for name in key.split('.'):
        try:
            node = node[int(name)] if isinstance(node, (list, tuple)) else \
                node[name]
        except (KeyError, IndexError, ValueError, TypeError) as error:
            known = ', '.join(map(str, node)) if isinstance(
                node, dict) else f'{type(node).__name__} {node!r}'
            raise UserError(f'--key {key}: there is no {name!r}; here is: '
                            f'{known}') from error
    return Config({key.split('.')[-1]: node}).pretty_text


if __name__ == '__main__':
    run_tool(main)
