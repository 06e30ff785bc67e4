"""The fixture where it used to be; `oslo_privsep.test.fixture` is its place."""

from oslo_privsep.test.fixture import UnprivilegedPrivsepFixture

__all__ = ["UnprivilegedPrivsepFixture"]
