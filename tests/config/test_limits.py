"""Which values keys may have."""

import pytest

from multas.config.limits import LIMITS, check_limits
from multas.config.opts import value_of
from multas.util.errors import UserError
from plain_config import plain_config
from shipped import rows, tables

NONSENSE = object()


def test_the_defaults_and_every_shipped_config_are_within_the_limits(repository):
    check_limits(plain_config())
    for folder in ("limited-data", "adaptive"):
        for address in (address for table in tables(folder) for address in rows(table)):
            check_limits(plain_config(address=str(repository / address)))


@pytest.mark.parametrize("key", LIMITS)
def test_a_wrong_value_is_named_with_what_it_must_be(key):
    cfg = plain_config()
    *path, last = key.split(".")
    for wrong in (NONSENSE, [NONSENSE]):
        node = value_of(cfg, ".".join(path)) if path else cfg
        dict.__setitem__(node, last, wrong)  # past the check of types
        with pytest.raises(UserError) as caught:
            check_limits(cfg)
        assert str(caught.value).startswith(f"{key} is ") and LIMITS[key].words in str(caught.value)
