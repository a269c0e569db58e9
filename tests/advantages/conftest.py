import pytest
from hypothesis import settings

from lens_openrlhf.advantages import ops, reference

# The same examples on every machine and in every run.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("repeatable")


@pytest.fixture(scope="session", params=[reference, ops], ids=["reference", "op"])
def implementation(request):
    """The module whose segment_mean, group_advantages and lens_advantages are under test."""
    return request.param
