# Copyright (c) mmext contributors. All rights reserved.
"""In what a config differs from that of a run before."""
import re
from typing import Any, Dict, Iterator, List, Mapping, Tuple

# Where a run is, what it starts from, what it shows and how it is measured:
# not what is trained. What a stage starts from is compared by its path.
_OTHER = re.compile(
    r'(work_dir|experiment_name|launcher|load_from|resume|log_level|env_cfg|'
    r'log_processor|visualizer|vis_backends|stages|val_\w+|test_\w+|tta_\w+)'
    r'(\.|$)|default_hooks\.(logger|visualization)\.|model\.teacher_ckpt$|'
    r'\w+_dataloader\.(num_workers|persistent_workers|pin_memory|'
    r'prefetch_factor)$')
_ADDRESS = re.compile(r' at 0x[0-9a-f]+')


def trained_options(cfg: Mapping[str, Any]) -> Dict[str, str]:
    """What a config says of training, as plain text.

    Args:
        cfg (Mapping): The config, such as ``Config._cfg_dict``.

    Returns:
        dict[str, str]: Dotted key -> text of the value. Folders, validation,
        logging, workers and checkpoints to start from are left out.
    """
    return {
        key: _ADDRESS.sub('', value)
        for key, value in _leaves(cfg, '') if not _OTHER.match(key)
    }


def _leaves(node: Any, path: str) -> Iterator[Tuple[str, str]]:
    if isinstance(node, Mapping) and (node or not path):
        items = [(str(key), value) for key, value in node.items()]
    elif isinstance(node, (list, tuple)) and any(
            isinstance(one, (Mapping, list, tuple)) for one in node):
        items = [(str(index), value) for index, value in enumerate(node)]
    else:
        # tuples become lists where a config is written and read again
        value = list(node) if isinstance(node, tuple) else node
        yield path, repr(value)
        return
    for key, value in items:
        yield from _leaves(value, f'{path}.{key}' if path else key)


def changed_options(before: Mapping[str, str],
                    after: Mapping[str, str]) -> List[str]:
    """What is said of training in one config and not in another.

    Args:
        before (Mapping[str, str]): Of :func:`trained_options`.
        after (Mapping[str, str]): The same of the config of now.

    Returns:
        list[str]: ``'key: old -> new'``, sorted by key; a key that only one
        has stands against ``'nothing'``.
    """
    return [
        f'{key}: {before.get(key, "nothing")} -> {after.get(key, "nothing")}'
        for key in sorted({*before, *after})
        if before.get(key) != after.get(key)
    ]
