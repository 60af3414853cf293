"""Model files: imported as modules of their own, so that dataclasses in them work."""

import sys
import textwrap

import pytest

from nm2trt.errors import InputError
from nm2trt.sparsity.recipe_file import make_model

NET = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn

@dataclass
class Config:
    width: int = {width}

def make_net() -> nn.Module:
    return nn.Linear(Config().width, 8)
"""


def test_a_file_may_hold_a_dataclass(tmp_path):
    (tmp_path / "net.py").write_text(NET.format(width=32))
    assert make_model("net.py:make_net", {}, tmp_path).in_features == 32


def test_two_files_of_one_name_and_an_installed_module_do_not_meet(tmp_path):
    """The files are called as a module of the standard library is."""
    import random

    for width in (16, 64):
        folder = tmp_path / str(width)
        folder.mkdir()
        (folder / "random.py").write_text(NET.format(width=width))
        assert make_model("random.py:make_net", {}, folder).in_features == width
    assert sys.modules["random"] is random


def test_a_file_that_fails_leaves_no_module_behind(tmp_path):
    before = set(sys.modules)
    (tmp_path / "net.py").write_text(textwrap.dedent("raise ValueError('half done')"))
    with pytest.raises(InputError, match="half done"):
        make_model("net.py:make_net", {}, tmp_path)
    assert set(sys.modules) == before
