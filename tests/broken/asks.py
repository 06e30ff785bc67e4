"""A module that asks for a daemon's status when it is imported: that starts a daemon."""

import privsep

inner = privsep.Context("asks", capabilities=[])
inner.status()
