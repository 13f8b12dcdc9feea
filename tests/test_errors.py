"""One tree of errors, so that a caller catches one class and no more."""

import pytest

from ecomap import errors
from ecomap.errors import DivergenceError, EcomapError, ImageError

ALL = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, EcomapError) and value is not EcomapError
]


def test_the_tree_has_the_errors_that_the_parts_raise():
    names = {kind.__name__ for kind in ALL}
    assert names >= {"ConfigError", "SchemaError", "DataError", "BundleError", "RequestError"}


@pytest.mark.parametrize("kind", ALL)
def test_every_error_is_caught_by_the_base_and_says_when_it_is_raised(kind):
    assert kind.__doc__
    words = ("odd month", "month is 13") if kind is ImageError else ("month is 13",)
    with pytest.raises(EcomapError, match="month is 13"):
        raise kind(*words)


@pytest.mark.parametrize("kind", sorted(set(ALL) - {DivergenceError}, key=str))
def test_bad_input_is_a_value_error_too(kind):
    assert issubclass(kind, ValueError)


def test_a_diverged_training_is_an_arithmetic_error_and_not_bad_input():
    assert issubclass(DivergenceError, ArithmeticError)
    assert not issubclass(DivergenceError, ValueError)
