"""A service's contexts, as neutron has them: run with oslo.privsep, and with ours."""

import os

from oslo_privsep import capabilities, priv_context

_KEPT = [capabilities.CAP_SYS_ADMIN, capabilities.CAP_NET_ADMIN]

default = priv_context.PrivContext(
    __name__,
    cfg_section="neutronlike",
    pypath=f"{__name__}.default",
    capabilities=_KEPT if os.geteuid() == 0 else [],
)
other = priv_context.PrivContext(
    __name__,
    cfg_section="neutronlike_other",
    pypath=f"{__name__}.other",
    capabilities=[],
)
copy = default
