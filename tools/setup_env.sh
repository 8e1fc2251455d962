# Copyright (c) mmext contributors. All rights reserved.
# Sourced by tools/run_tests.sh and tools/quickstart.sh, not run by itself.
#
#   mmext_setup STACK MODULE...
#
# sets PYTHON to the interpreter of an environment in which torch,
# torchvision, the packages of STACK (onedl or openmmlab), this checkout and
# the named MODULEs are installed. A complete environment is left as it is,
# so a second call is quick.
#
# onedl:      the active environment (VIRTUAL_ENV or CONDA_PREFIX) if there
#             is one, else .venv, which is created if there is none.
# openmmlab:  .venv-openmmlab, always: both stacks install the same modules
#             and cannot share an environment.
#
# Settings:   MMEXT_TORCH_INDEX  pip index for torch and torchvision, such as
#                                https://download.pytorch.org/whl/cpu
#             MMEXT_PYTHON       interpreter that creates the environment

MMEXT_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"

mmext_say() { printf '\033[1m[mmext]\033[0m %s\n' "$*" >&2; }

# Print the first interpreter that is new enough.
_mmext_base_python() {
    local candidate
    for candidate in ${MMEXT_PYTHON:-python3 python3.12 python3.11 \
        python3.10 python}; do
        if "$candidate" -c \
            'import sys; sys.exit(sys.version_info < (3, 10))' \
            2> /dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    mmext_say 'No Python >= 3.10 was found. Install one, or name it with' \
        'MMEXT_PYTHON=/path/to/python3.'
    return 1
}

_mmext_find_environment() {
    local folder="$MMEXT_ROOT/.venv"
    if [ "$1" = openmmlab ]; then
        folder="$MMEXT_ROOT/.venv-openmmlab"
    elif [ -n "${VIRTUAL_ENV:-${CONDA_PREFIX:-}}" ]; then
        folder="${VIRTUAL_ENV:-$CONDA_PREFIX}"
        mmext_say "Using the active environment $folder"
    fi
    if [ ! -x "$folder/bin/python" ]; then
        local base
        base="$(_mmext_base_python)" || return 1
        mmext_say "Creating $folder with $base"
        "$base" -m venv "$folder" || return 1
    fi
    PYTHON="$folder/bin/python"
}

# Names of the modules that cannot be found, without importing them. 'mmext'
# counts only if it is this checkout, with the links of an editable install.
_mmext_missing() {
    "$PYTHON" -I - "$MMEXT_ROOT" "$@" << 'EOF'
import os
import sys
from importlib.util import find_spec

root, modules = sys.argv[1], sys.argv[2:]
for name in modules:
    spec = find_spec(name)
    if spec is None or (name == 'mmext' and not (
            spec.origin.startswith(root + '/')
            and os.path.exists(root + '/mmext/.mim/configs'))):
        print(name)
EOF
}

mmext_setup() {
    local stack="$1" missing
    shift
    _mmext_find_environment "$stack" || return 1
    missing="$(_mmext_missing torch torchvision mmengine mmcv mmpretrain \
        mmseg mmext "$@")" || return 1
    [ -n "$missing" ] || return 0
    mmext_say "Installing into $PYTHON, for want of:" $missing
    mmext_say 'A first install fetches some gigabytes and takes minutes.'
    case "$missing" in
        *torch*)
            "$PYTHON" -m pip install --quiet torch torchvision \
                ${MMEXT_TORCH_INDEX:+--index-url "$MMEXT_TORCH_INDEX"} \
                || return 1
            ;;
    esac
    if [ "$stack" = openmmlab ]; then
        # mmcv has no wheel with compiled ops for a current torch, so the
        # tests of this stack use mmcv-lite and a stub of mmcv._ext.
        (cd "$MMEXT_ROOT" && "$PYTHON" -m pip install --quiet \
            'mmengine>=0.10.7,<0.11' 'mmcv-lite>=2.1,<2.2' \
            'mmpretrain>=1.2,<1.3' 'mmsegmentation>=1.2.2,<1.3' \
            'setuptools<82' importlib-metadata ftfy regex \
            -e '.[tests,depth]') || return 1
    else
        (cd "$MMEXT_ROOT" && "$PYTHON" -m pip install --quiet \
            -e '.[onedl,tests,depth]') || return 1
    fi
    missing="$(_mmext_missing torch torchvision mmengine mmcv mmpretrain \
        mmseg mmext "$@")" || return 1
    if [ -n "$missing" ]; then
        mmext_say 'The install went through, but still missing:' $missing
        return 1
    fi
}
