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
hurried = priv_context.PrivContext(
    __name__,
    cfg_section="neutronlike_hurried",
    pypath=f"{__name__}.hurried",
    capabilities=[],
    logger_name="neutronlike.hurried",
    timeout=0.3,
)
copy = default
