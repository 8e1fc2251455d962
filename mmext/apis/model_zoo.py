# Copyright (c) mmext contributors. All rights reserved.
"""Our classification models in mmpretrain's model hub."""
import os
import tempfile
from typing import List

from mmext.utils.config_io import package_root, read_model_index
from mmext.utils.dependency import require

TASK = 'Image Classification'


def register_model_zoo() -> List[str]:
    """Let ``mmpretrain.list_models`` and ``get_model`` know our models.

    Those of the model zoo whose metafile names the task Image Classification
    are registered, under their names in lower case as mmpretrain compares
    them; segmentation models are not mmpretrain's. Calling it again changes
    nothing. ``import mmext.apis`` calls it where mmpretrain is installed.

    A model is built with the weights that its config starts from;
    ``get_model(NAME, module=dict(backbone=dict(init_cfg=None)))`` builds it
    without.

    Returns:
        list[str]: The names of our models in the hub.

    Raises:
        ImportError: If mmpretrain is not installed.

    Examples:
        >>> import mmext, mmpretrain
        >>> mmext.register_model_zoo()
        >>> mmpretrain.list_models('mosa_')
        >>> mmpretrain.get_model('mosa_vit-base-p16_cub', pretrained=FILE)
    """
    import yaml
    hub = require('mmpretrain.apis.model', 'register_model_zoo()').ModelHub
    root = package_root()
    ours = {
        name: entry
        for name, entry in read_model_index(root).items()
        if _is_classifier(entry)
    }
    new = {k: entry for k, entry in ours.items() if not hub.has(k)}
    if not new:
        return list(ours)
    # The hub reads files only, and all models of a file.
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'metafile.yml')
        names = sorted({entry['In Collection'] for entry in new.values()})
        with open(path, 'w', encoding='utf-8') as file:
            yaml.safe_dump(
                dict(
                    Collections=[dict(Name=name) for name in names],
                    Models=list(new.values())), file)
        hub.register_model_index(path, config_prefix=root)
    return list(ours)


def _is_classifier(entry: dict) -> bool:
    return any(
        result.get('Task') == TASK for result in entry.get('Results') or [])
