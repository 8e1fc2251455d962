# Copyright (c) mmext contributors. All rights reserved.
"""Check configs without running them."""
import argparse
import sys
from contextlib import redirect_stdout

from mmext.utils.config_check import check_config
from mmext.utils.config_io import CfgOptions, load_config, merge_options
from mmext.utils.preflight import check_host
from mmext.utils.user_error import UserError, run_tool


def parse_args(argv=None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description='Check a config of any OpenMMLab host: does it parse, '
        'does every type exist, does every class take the arguments it is '
        'given, does everything build (large models without memory for '
        'their parameters), is a key read by nobody, is a path missing. '
        'Prints one line per finding; exit code 1 if there is an error, 0 '
        'if there are only warnings or nothing. The config is Python code '
        'and is executed: check only configs that you trust.')
    parser.add_argument(
        'configs',
        nargs='+',
        metavar='config',
        help='paths of configs, or names from the model zoo')
    parser.add_argument(
        '--allow-missing-paths',
        action='store_true',
        help='a missing data folder or checkpoint is only a warning')
    parser.add_argument(
        '--no-build',
        action='store_true',
        help='look types and arguments up, but build nothing')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptions,
        metavar='KEY=VALUE',
        help='change settings before the check')
    return parser.parse_args(argv)


def main(argv=None) -> int:
    args = parse_args(argv)
    failed = False
    for name in args.configs:
        prefix = f'{name}: ' if len(args.configs) > 1 else ''
        try:
            cfg = load_config(name)
            merge_options(cfg, args.cfg_options)
            check_host(cfg)
        except UserError as error:
            lines, errors = [f'error: config: {error}'], 1
        else:
            with redirect_stdout(sys.stderr):  # what hosts print
                findings = check_config(cfg, args.allow_missing_paths,
                                        not args.no_build)
            lines = [str(finding) for finding in findings]
            errors = sum(f.level == 'error' for f in findings)
        failed |= errors > 0
        verdict = f'{errors} error(s)' if errors else 'sound'
        warned = len(lines) - errors
        lines.append(f'{verdict}' + (f', {warned} warning(s)' * (warned > 0)))
        sys.stdout.write(''.join(f'{prefix}{line}\n' for line in lines))
    return int(failed)


if __name__ == '__main__':
    run_tool(main)
