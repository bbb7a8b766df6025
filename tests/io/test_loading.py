"""Imports without a search for garbage."""

import gc

import pytest

from raydd.io.loading import loading


def test_garbage_is_searched_for_again_after_the_block():
    assert gc.isenabled()
    with loading():
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), loading():
        raise ImportError
    assert gc.isenabled()
    gc.disable()
    try:
        with loading():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
