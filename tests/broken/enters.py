"""Enters a context when it is imported, which starts a daemon."""

import privsep

inner = privsep.Context("enters", capabilities=[])
with inner:
    pass
