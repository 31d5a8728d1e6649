"""Whatever is handed to nsgf, good or bad, ends in a right result, a warning, or an error that names it."""

import pytest
from cases import cases, complaint
from hypothesis import HealthCheck, given, settings


@pytest.mark.filterwarnings("ignore")  # the judge looks at all of them
@settings(max_examples=150, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(cases)
def test_a_case_is_right_or_says_what_is_wrong(case):
    assert complaint(case) == ""
