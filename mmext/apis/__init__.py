# Copyright (c) mmext contributors. All rights reserved.
"""What users call from Python: model zoo, inferencers, adapters."""
import logging

from mmengine.logging import print_log

from mmext.registry import import_rim
from mmext.utils.dependency import has
from .model_zoo import register_model_zoo
from .streaming_adapter import StreamingAdapter

if has('mmpretrain'):
    try:
        register_model_zoo()
    except Exception as error:
        # A host that is broken must not take down what does not need it.
        print_log(
            'The models of mmext are not in mmpretrain\'s hub: '
            f'{type(error).__name__}: {error}',
            logger='current',
            level=logging.WARNING)

# Registers the inferencers.
import_rim(
    __name__,
    dict(certified_inferencer='mmpretrain', spike_depth_inferencer='mmseg'))

__all__ = ['register_model_zoo', 'StreamingAdapter']
