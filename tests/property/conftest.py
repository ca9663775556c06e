"""Effort of the property tests: ``HYPOTHESIS_PROFILE=thorough`` for a long run."""

import os

from hypothesis import HealthCheck, settings

_SLOW_IS_FINE = (HealthCheck.too_slow, HealthCheck.data_too_large)

settings.register_profile(
    "default", max_examples=100, deadline=None, database=None, suppress_health_check=_SLOW_IS_FINE, print_blob=True
)
settings.register_profile(
    "thorough", max_examples=5_000, deadline=None, database=None, suppress_health_check=_SLOW_IS_FINE, print_blob=True
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))
