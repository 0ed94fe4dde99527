"""Fixtures of the tests of measures."""

import pytest

from nstexp.core.measures import Scorer
from nstexp.core.networks.pretrained import random_vgg
from nstexp.core.networks.vgg import VGG


@pytest.fixture(scope="module")
def encoder():
    return VGG(random_vgg(), pad="reflect")


@pytest.fixture(scope="module")
def scorer(encoder):
    return Scorer(encoder)
