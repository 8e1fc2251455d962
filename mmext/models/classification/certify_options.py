# Copyright (c) mmext contributors. All rights reserved.
"""How a classifier is asked to certify: ``test_cfg.certify``."""
from dataclasses import dataclass, fields
from typing import Optional, Tuple

from mmext.utils.arguments import check_number, set_switches
from mmext.utils.user_error import ConfigError
from ..lipschitz.attacks import attack_losses, autoattack_package
from ..lipschitz.boxes import eps_tuple, warn_large_eps
from ..lipschitz.certifier import METHODS


@dataclass(frozen=True)
class CertifyOptions:
    """``test_cfg=dict(certify=dict(...))`` of a certified classifier.

    Args:
        eps (float | str | Sequence[float | str]): Radii in pixel units of
            images in [0, 1], such as ``[2 / 255, 8 / 255]`` or
            ``['2/255', '8/255']``; all in one pass.
        method (str): ``'interval'`` propagates the box through every layer;
            ``'lipschitz'`` uses the margin alone (for a ``BoundMLPHead``: the
            features plus and minus eps). Defaults to ``'interval'``.
        clamp (bool): Leave out of the box what no image in [0, 1] can be;
            intervals only. Defaults to True.
        sound_rounding (bool): Count the rounding errors of float32.
            Defaults to True.
        radius (bool): Add a radius without regard to the true label.
            Defaults to True.
        radius_steps (int, optional): Halvings by which intervals refine the
            radius, a propagation each. Defaults to None: 0 where half the
            margin is a radius, 10 where it is not.
        attack (dict, optional): Also attack at every radius: options of
            :func:`~mmext.models.lipschitz.attacks.pgd_attack` (``steps``,
            ``restarts``, ``loss``, ``step_size`` as a part of eps), ``seed``,
            and ``surrogate_p``, the exponent that gradients are taken at; or
            ``dict(type='autoattack', version='standard', seed=0)``.
            Defaults to None.
        pixel_range (float): What white is in the images that the data
            preprocessor gets. Defaults to 255.
        force_inf (bool): Certify the network at p = inf even if its
            checkpoint was saved, or it stands, at a finite p. Sound, but its
            running means belong to another network, so that the numbers mean
            little; warns. Defaults to False.
    """

    eps: Tuple[float, ...]
    method: str = 'interval'
    clamp: bool = True
    sound_rounding: bool = True
    radius: bool = True
    radius_steps: Optional[int] = None
    attack: Optional[dict] = None
    pixel_range: float = 255.
    force_inf: bool = False

    @classmethod
    def from_cfg(cls, cfg: Optional[dict]) -> Optional['CertifyOptions']:
        """Read ``test_cfg``.

        Raises:
            ConfigError: For options that do not exist, and radii that are
                not in pixel units.
        """
        others = sorted(set(cfg or {}) - {'certify'})
        if others:
            raise ConfigError(
                'test_cfg of a certified classifier takes certify=dict('
                f'eps=[8 / 255], ...), but got {", ".join(others)}. Options '
                'of certificates stand in test_cfg.certify.')
        cfg = (cfg or {}).get('certify')
        if cfg is None:
            return None
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(cfg) - set(known))
        if unknown or 'eps' not in cfg:
            raise ConfigError('test_cfg.certify needs eps, and may have '
                              f'{", ".join(known[1:])}, but got {dict(cfg)}.')
        options = dict(cfg)
        eps = eps_tuple(options.pop('eps'))
        warn_large_eps(eps)
        if not eps:
            raise ConfigError('test_cfg.certify.eps is empty: give at least '
                              'one radius, such as 8/255.')
        return cls(eps, **options)

    def __post_init__(self) -> None:
        set_switches(self, 'test_cfg.certify.')
        check_number(
            'test_cfg.certify.pixel_range', self.pixel_range, 0, strict=True)
        if self.radius_steps is not None:
            check_number(
                'test_cfg.certify.radius_steps',
                self.radius_steps,
                0,
                whole=True)
        if self.method not in METHODS:
            raise ConfigError(f'method is one of {METHODS}, but got '
                              f'{self.method!r}.')
        if self.attack is not None:
            kind = self.attack.get('type', 'pgd')
            if kind not in ATTACK_OPTIONS:
                raise ConfigError(f'attack.type is one of '
                                  f'{list(ATTACK_OPTIONS)}, but got {kind!r}.')
            unknown = set(self.attack) - ATTACK_OPTIONS[kind] - {'type'}
            if unknown:
                raise ConfigError(f'An attack of type {kind!r} takes '
                                  f'{sorted(ATTACK_OPTIONS[kind])}, but got '
                                  f'{sorted(unknown)}.')
            attack_losses(self.attack.get('loss', 'margin'))
            if kind == 'autoattack':
                # Now, and not after a training.
                try:
                    autoattack_package()
                except ImportError as error:
                    raise ConfigError(str(error)) from None
            limits = dict(
                steps=dict(low=1, whole=True),
                restarts=dict(low=1, whole=True),
                step_size=dict(low=0, strict=True))
            for name, limit in limits.items():
                if name in self.attack:
                    check_number(f'test_cfg.certify.attack.{name}',
                                 self.attack[name], **limit)


ATTACK_OPTIONS = dict(
    pgd={'steps', 'restarts', 'loss', 'step_size', 'seed', 'surrogate_p'},
    autoattack={'version', 'seed'})
