"""A module that uses a context as a context manager when it is imported: that starts a daemon."""

import privsep

inner = privsep.Context("enters", capabilities=[])
with inner:
    pass
