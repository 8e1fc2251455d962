#!/usr/bin/env bash
# Copyright (c) mmext contributors. All rights reserved.
# The main job on embedded data: install what is missing, draw street scenes,
# let a SegFormer-B0 adapt over fog, night, rain and snow, and compare the
# methods.
#
#   tools/quickstart.sh
#
# Results: work_dirs/quickstart/report.{md,json} and contact_sheet.png. A second
# run reuses what is finished. Environments: see tools/setup_env.sh.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"

mmext_setup onedl
cd "$MMEXT_ROOT"
work=work_dirs/quickstart
data="$work/data"

mmext_say "Drawing street scenes into $data"
"$PYTHON" tools/dataset_converters/streetworld.py --quick --out "$data"

mmext_say 'Adapting; each method runs tools/train.py on its own config'
options=()
for domain in fog night rain snow; do
    for loader in train_dataloader test_dataloader; do
        options+=("$loader.dataset.domains.$domain.data_root=$data")
    done
done
"$PYTHON" tools/analysis_tools/compare_adaptation.py \
    configs/svdp/source_streetworld.py \
    configs/svdp/bn-stats_streetworld.py \
    configs/svdp/tent_streetworld.py \
    configs/svdp/cotta_streetworld.py \
    configs/svdp/streetworld.py \
    --work-dir "$work" --sheet --cfg-options "${options[@]}"
