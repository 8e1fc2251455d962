#!/usr/bin/env bash
# Copyright (c) mmext contributors. All rights reserved.
# Run the tests, after installing what they need.
#
#   tools/run_tests.sh [--stack onedl|openmmlab] [PYTEST ARGUMENTS...]
#
#   tools/run_tests.sh                          everything that is quick
#   tools/run_tests.sh -m slow                  what takes minutes
#   tools/run_tests.sh tests/test_utils -x      arguments go to pytest
#   tools/run_tests.sh --stack openmmlab        the stated subset on the
#                                               original OpenMMLab packages
#
# Environments and settings: see tools/setup_env.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

stack=onedl
if [ "${1:-}" = --stack ]; then
    stack="${2:-}"
    shift 2 || shift $#
fi
case "$stack" in
    onedl) subset=() ;;
    openmmlab) subset=(-m stack_subset) ;;
    *)
        mmext_say "Expected --stack onedl or openmmlab, but got '$stack'."
        exit 2
        ;;
esac

mmext_setup "$stack" pytest pytest_timeout hypothesis timm
cd "$MMEXT_ROOT"
exec "$PYTHON" -m pytest ${subset[@]+"${subset[@]}"} "$@"
