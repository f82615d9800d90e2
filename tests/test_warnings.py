"""A deprecation that our own code meets is an error in tests; other people's is theirs to mend."""

import warnings

import pytest


@pytest.mark.parametrize("kind", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
@pytest.mark.parametrize("module", ["ns_jax.training.step", "configs.base", "benchmarks.runs"])
def test_what_will_be_taken_away_is_an_error_where_it_is_ours(kind, module):
    with pytest.raises(kind):
        warnings.warn_explicit("soon gone", kind, "file.py", 1, module)


def test_a_library_may_warn_itself():
    with pytest.warns(DeprecationWarning):
        warnings.warn_explicit("soon gone", DeprecationWarning, "file.py", 1, "ns_jax_other")
