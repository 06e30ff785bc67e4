"""Asks for the status of a daemon when it is imported, which starts one."""

import privsep

inner = privsep.Context("asks", capabilities=[])
inner.status()
