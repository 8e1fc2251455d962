# Copyright (c) mmext contributors. All rights reserved.
"""Which keyword arguments a class or function accepts."""
import ast
import inspect
import textwrap
from functools import lru_cache
from typing import (Any, Callable, FrozenSet, NamedTuple, Optional, Set, Union,
                    get_args, get_origin)

from torch import nn

# Whose classes read only the nested configs that registries build.
_TOOLBOXES = {
    'mmext', 'mmengine', 'mmcv', 'mmseg', 'mmpretrain', 'mmcls', 'mmdet',
    'mmdet3d', 'mmselfsup', 'mmpose', 'mmaction', 'mmagic', 'mmocr', 'mmyolo',
    'mmrotate', 'mmrazor', 'mmdeploy'
}


def is_foreign(target: Any) -> bool:
    """Whether a class or function belongs to the user, not to a toolbox."""
    module = getattr(target, '__module__', None) or ''
    return module.split('.')[0] not in _TOOLBOXES


class Arguments(NamedTuple):
    """What may be passed by keyword.

    Args:
        names (set[str], optional): Accepted names; ``None`` means any.
        required (set[str]): Names without a default.
        swallowed (bool): Other names raise nothing but are never read.
        numbers (frozenset[str]): Names that are annotated as a number.
        switches (frozenset[str]): Names that are annotated as a bool.
    """

    names: Optional[Set[str]]
    required: Set[str]
    swallowed: bool = False
    numbers: FrozenSet[str] = frozenset()
    switches: FrozenSet[str] = frozenset()


class _Forwarding(NamedTuple):
    """What a function does with its ``**kwargs``."""

    to_super: bool  # every `**kwargs` in a call goes to the next __init__
    unused: bool  # nothing is done with it
    fixed: Set[str]  # names that the call of the next __init__ gives itself
    read: Set[str]  # names that are popped or read


def accepted_arguments(target: Any) -> Arguments:
    """Collect the keyword arguments that ``target(...)`` accepts.

    A class that takes ``**kwargs`` and hands them to ``super().__init__``
    accepts what the next class of its method resolution order accepts, and
    so on up the order. When ``**kwargs`` go anywhere else (or the source is
    not available), any name counts as accepted.

    Args:
        target (type or Callable): What a registry returned.

    Returns:
        Arguments: Accepted and required names.
    """
    try:
        return _accepted(target)
    except (TypeError, ValueError):  # unhashable, or no signature
        return Arguments(None, set())


@lru_cache(maxsize=None)
def _accepted(target: Any) -> Arguments:
    if not inspect.isclass(target):
        names, required, keywords = _parameters(target, skip_first=False)
        return Arguments(
            None if keywords else names,
            required,
            numbers=_annotated(target, int, float),
            switches=_annotated(target, bool))
    names: Set[str] = set()
    fixed: Set[str] = set()
    numbers: Set[str] = set()
    switches: Set[str] = set()
    required: Optional[Set[str]] = None
    for owner in inspect.getmro(target):
        init = vars(owner).get('__init__')
        if init is None:
            continue
        if owner in (object, nn.Module):  # neither takes any argument
            break
        own, needed, keywords = _parameters(init, skip_first=True)
        if required is None:
            required = needed
        new = own - names - fixed
        numbers |= _annotated(init, int, float) & new
        switches |= _annotated(init, bool) & new
        names |= new
        if keywords is None:
            break
        use = _forwarding(init, keywords)
        names |= use.read
        if use.unused:
            return Arguments(names, required, True, frozenset(numbers),
                             frozenset(switches))
        if not use.to_super:
            return Arguments(None, required, False, frozenset(numbers),
                             frozenset(switches))
        fixed |= use.fixed
    return Arguments(names, required or set(), False, frozenset(numbers),
                     frozenset(switches))


def _parameters(function: Callable, skip_first: bool):
    """Names, names without default, name of the ``**`` parameter."""
    parameters = list(inspect.signature(function).parameters.values())
    if skip_first:
        parameters = parameters[1:]
    names, required, keywords = set(), set(), None
    for p in parameters:
        if p.kind is p.VAR_KEYWORD:
            keywords = p.name
        elif p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY):
            names.add(p.name)
            if p.default is p.empty:
                required.add(p.name)
    return names, required, keywords


def _annotated(function: Callable, *kinds: type) -> FrozenSet[str]:
    """Parameters that are annotated as one of ``kinds``, or also None."""
    texts = {
        text.format(kind.__name__)
        for kind in kinds for text in ('{}', 'Optional[{}]')
    }

    def fits(annotation: Any) -> bool:
        if isinstance(annotation, str):
            return annotation in texts
        if annotation in kinds:
            return True
        found = set(get_args(annotation)) - {type(None)}
        return get_origin(annotation) is Union and bool(found) and \
            found <= set(kinds)

    return frozenset(
        p.name for p in inspect.signature(function).parameters.values()
        if fits(p.annotation))


def _forwarding(init: Callable, keywords: str) -> _Forwarding:
    """Read in the source where ``**keywords`` goes."""
    elsewhere = _Forwarding(False, False, set(), set())
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(init)))
    except (OSError, TypeError, SyntaxError):
        return elsewhere
    fixed: Set[str] = set()
    read: Set[str] = set()
    handled = set()  # ids of the name nodes that are understood
    to_super = False
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and _is_init_call(node.func):
            for keyword in node.keywords:
                if keyword.arg is not None:
                    fixed.add(keyword.arg)
                elif getattr(keyword.value, 'id', None) == keywords:
                    to_super = True
                    handled.add(id(keyword.value))
        elif isinstance(node, ast.Call) and isinstance(
                node.func, ast.Attribute) and getattr(node.func.value, 'id',
                                                      None) == keywords:
            if node.args and isinstance(node.args[0], ast.Constant):
                read.add(node.args[0].value)
            handled.add(id(node.func.value))
        elif isinstance(node, (ast.Subscript, ast.Compare)):
            leaves = list(ast.iter_child_nodes(node))
            mine = [x for x in leaves if getattr(x, 'id', None) == keywords]
            handled |= {id(leaf) for leaf in mine}
            read |= {
                leaf.value
                for leaf in leaves if mine and isinstance(leaf, ast.Constant)
            }
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == keywords and \
                id(node) not in handled:
            return elsewhere
    return _Forwarding(to_super, not handled, fixed, read)


def _is_init_call(function: ast.AST) -> bool:
    """``super().__init__`` or ``Base.__init__``."""
    return isinstance(function, ast.Attribute) and \
        function.attr == '__init__'
