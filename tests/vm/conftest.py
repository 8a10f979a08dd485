# SPDX-License-Identifier: MIT
"""The fixtures of the end-to-end tests."""
from tests.e2e.conftest import pytest_runtest_makereport, served, system  # noqa: F401
