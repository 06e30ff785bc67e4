"""A module that starts a daemon when it is imported, which imports it again."""

import privsep

inner = privsep.Context("inner", capabilities=[])
inner.start("exec")
