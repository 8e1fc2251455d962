# Copyright (c) mmext contributors. All rights reserved.
from setuptools import setup

setup()
