"""The names that a user may rely on are those of `__all__`, and no others are visible."""

import types

import lmonnx
from lmonnx import errors


def test_all_names_what_is_visible_and_ours():
    visible = {
        name
        for name, value in vars(lmonnx).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "lmonnx").startswith("lmonnx")
    }
    assert visible | {"__version__"} == set(lmonnx.__all__)
    assert lmonnx.__all__ == sorted(lmonnx.__all__)


def test_every_error_is_public_and_says_so_in_one_sentence():
    for name, value in vars(errors).items():
        if isinstance(value, type) and issubclass(value, Exception):
            assert getattr(lmonnx, name) is value
            assert value.__doc__
            assert value.__doc__.endswith(".")
            assert value.exit_code in {1, 3}


def test_a_wrong_input_is_also_a_value_error():
    assert issubclass(lmonnx.InputError, ValueError)
    assert issubclass(lmonnx.GateError, lmonnx.StageError)
