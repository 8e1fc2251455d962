# Copyright (c) mmext contributors. All rights reserved.
"""Read a config by path or by its name in the model zoo.

Reading a config executes it; read only configs that you trust.
"""
import ast
from argparse import Action, ArgumentError, Namespace
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from mmengine.config import Config, DictAction

from .user_error import UserError

#: Stages of BiCross, in their order.
STAGES = ('stage1', 'stage2', 'stage3')
SUFFIXES = ('.py', '.yml', '.yaml', '.json')


class CfgOptions(DictAction):
    """``DictAction`` whose mistakes are argparse messages.

    Use it as the ``action`` of ``--cfg-options``; the values of mmengine's
    own class are kept, but ``--cfg-options lr`` (no ``=``) is explained
    instead of raising ``ValueError``, and a text keeps its spaces unless
    it is a list (a comma, or a bracket at its start).
    """

    def __call__(self, parser, namespace, values, option_string=None):
        for value in values:
            if '=' not in value:
                raise ArgumentError(
                    self, f'expected KEY=VALUE, got {value!r}; write lists '
                    "as 'key=[a,b]' in quotes")
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, ValueError) as error:
            raise ArgumentError(
                self, f'cannot read {" ".join(values)!r}: {error}') from error
        for value in values:
            key, _, text = value.partition('=')
            text = text.strip()
            # mmengine takes the spaces out of everything, also of paths
            if ' ' in text and ',' not in text and text[0] not in '[(':
                getattr(namespace, self.dest)[key] = text.strip('\'"')


class NamedOptions(Action):
    """``--variant NAME KEY=VALUE ...``, given any number of times."""

    def __call__(self, parser, namespace, values, option_string=None):
        name, *options = values
        known = dict(getattr(namespace, self.dest) or {})
        if '=' in name or not options or name in known or '/' in name:
            parser.error('--variant needs a name of its own and KEY=VALUE '
                         f'behind it, got {" ".join(values)!r}')
        parsed = Namespace()
        CfgOptions([option_string], 'options')(parser, parsed, options)
        known[name] = parsed.options
        setattr(namespace, self.dest, known)


def package_root() -> Path:
    """Folder that holds ``configs``, ``tools`` and ``model-index.yml``.

    It is the checkout for an editable install and ``mmext/.mim`` for an
    installed wheel.
    """
    package = Path(__file__).resolve().parents[1]
    checkout = package.parent
    if (checkout / 'configs' / '_base_' / 'mmseg_runtime.py').is_file():
        return checkout
    return package / '.mim'


def read_model_index(root: Optional[Path] = None) -> Dict[str, dict]:
    """Read the entries of the model zoo.

    Args:
        root (Path, optional): Folder with ``model-index.yml``. Defaults to
            :func:`package_root`.

    Returns:
        dict[str, dict]: Model name -> its entry in the metafile. Empty if
        there is no index.
    """
    import yaml
    root = root or package_root()
    index = root / 'model-index.yml'
    if not index.is_file():
        return {}
    models = {}
    content = yaml.safe_load(index.read_text(encoding='utf-8')) or {}
    for pattern in content.get('Import') or []:
        for path in sorted(root.glob(pattern)):
            meta = yaml.safe_load(path.read_text(encoding='utf-8')) or {}
            for model in meta.get('Models') or []:
                models[model['Name']] = model
    return models


def find_config(name: str) -> Path:
    """Find a config by path or by model name.

    Args:
        name (str): A path (absolute, relative to the working directory, or
            relative to :func:`package_root`), ``mmext::`` and a path in
            ``configs``, as ``_base_`` has it, or a name from the model zoo.

    Returns:
        Path: An existing file.

    Raises:
        UserError: If there is none; names the places and the nearest names.
    """
    path, root = Path(name).expanduser(), package_root()
    if name.startswith('mmext::'):
        name = name.replace('mmext::', 'configs/', 1)
        path = root / name
    if path.is_file():
        return path
    if path.suffix in SUFFIXES:
        if not path.is_absolute() and (root / path).is_file():
            return root / path
        known = {
            str(p.relative_to(root)): p
            for p in sorted((root / 'configs').rglob('*.py'))
        }
        looked = [str(path.absolute())]
        if not path.is_absolute():
            looked.append(str(root / path))
        raise UserError(f'The config {name!r} does not exist. Looked for: '
                        f'{", ".join(dict.fromkeys(looked))}.'
                        f'{_nearest(name, known)}')
    models = read_model_index(root)
    if name in models:
        return root / models[name]['Config']
    what = 'is a folder, not a config file' if path.is_dir() else \
        'is neither a config file nor a model name of mmext\'s model zoo'
    raise UserError(f'{name!r} {what}. Give the path of a config (with its '
                    f'suffix, such as .py) or a model name.'
                    f'{_nearest(name, models)}')


def load_config(name: str) -> Config:
    """Read a config; every failure becomes one clear message.

    Args:
        name (str): See :func:`find_config`.

    Returns:
        Config: The config, with its bases merged.

    Raises:
        UserError: If the file is missing, has a syntax error, inherits a
            missing base, imports a missing module or fails while it runs.
    """
    path = find_config(name)
    try:
        return Config.fromfile(str(path))
    except SyntaxError as error:
        file, line, message = _locate_syntax_error(path, error)
        raise UserError(f'The config {file} cannot be read: line {line}: '
                        f'{message}') from error
    except FileNotFoundError as error:
        raise UserError(
            f'The config {path} needs a file that does not exist: {error}. '
            'Check the paths in its `_base_` (they are relative to the '
            'config that names them).') from error
    except ImportError as error:
        raise UserError(f'The config {path} needs a module that cannot be '
                        f'imported: {error}') from error
    except Exception as error:
        raise UserError(f'The config {path} cannot be read: '
                        f'{type(error).__name__}: {error}') from error


def named_stages(config: str) -> Dict[str, str]:
    """Configs of the stages that a config of BiCross names (``stages``).

    Args:
        config (str): The config.

    Returns:
        dict[str, str]: Stage -> path; one that lies beside the config is
        found there. Empty if none is named.

    Raises:
        UserError: If the config cannot be read.
    """
    named = load_config(config).get('stages') or {}
    folder = find_config(config).parent
    return {
        stage: str(folder / path) if (folder / path).is_file() else path
        for stage, path in named.items()
    }


def merge_options(cfg: Config, options: Optional[dict]) -> List[str]:
    """Merge ``--cfg-options`` into a config, in place.

    Args:
        cfg (Config): The config.
        options (dict, optional): Dotted keys and values. ``None`` changes
            nothing.

    Returns:
        list[str]: Keys whose first part the config did not have, which is
        often a misspelling.

    Raises:
        UserError: If a key does not fit the config, such as a list index
            that is out of range, or of what is no list.
    """
    if not options:
        return []
    for key in options:
        _check_indices(cfg._cfg_dict, key)
    new = [key for key in options if key.split('.')[0] not in cfg]
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        raise UserError(f'--cfg-options {" ".join(options)}: does not fit '
                        f'the config: {error}') from error
    return new


def _check_indices(cfg: Any, key: str) -> None:
    """Refuse an index of no list, for which mmengine makes a dict."""
    node, parts = cfg, key.split('.')
    for depth, part in enumerate(parts):
        if isinstance(node, (list, tuple)):
            node = node[int(part)] if part.isdecimal() and \
                int(part) < len(node) else None
            continue
        known = isinstance(node, Mapping) and part in node
        if part.isdecimal() and not known:
            where = '.'.join(parts[:depth])
            raise UserError(
                f'--cfg-options {key}: {where} is no list in the config, so '
                f'that it has no entry {part}. Set all of it, such as '
                f'{where}="[dict(...)]", or change the config.')
        node = node[part] if known else None


def _nearest(name: str, known: Dict[str, object]) -> str:
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    return f' Did you mean {", ".join(near)}?' if near else ''


def _locate_syntax_error(path: Path,
                         error: SyntaxError) -> Tuple[Path, int, str]:
    """mmengine parses copies without names: find the file that is broken."""
    todo, seen = [path], set()
    while todo:
        file = todo.pop()
        if file in seen or file.suffix != '.py' or not file.is_file():
            continue
        seen.add(file)
        try:
            tree = ast.parse(file.read_text(encoding='utf-8'))
        except SyntaxError as found:
            return file, found.lineno or 0, found.msg
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(
                    getattr(t, 'id', '') == '_base_' for t in node.targets):
                todo += [
                    file.parent / leaf.value for leaf in ast.walk(node.value)
                    if isinstance(leaf, ast.Constant)
                    and isinstance(leaf.value, str)
                ]
    return path, error.lineno or 0, error.msg
