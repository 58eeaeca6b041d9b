"""What chunkstore tests itself with, for those who bring their own backend or test their own use of one. Needs pytest.

The Hypothesis machines are in `chunkstore.testing.machine` and `chunkstore.testing.store_machine`.
"""

import pytest

# Before the import: a bare `assert` in the suite would fail without saying what was compared.
pytest.register_assert_rewrite("chunkstore.testing.suite")

from chunkstore.testing.suite import BackendSuite, Witness  # noqa: E402  # must follow the line above
from chunkstore.testing.wrappers import CountingBackend, Fault, FlakyBackend, Request, SlowBackend  # noqa: E402

__all__ = ["BackendSuite", "CountingBackend", "Fault", "FlakyBackend", "Request", "SlowBackend", "Witness"]
