"""Services that use oslo.privsep, as PyPI has them, run unchanged."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import environments
import pytest

if TYPE_CHECKING:
    from public_python import PublicPython

#: whose tests touch privsep
_UNIT_TESTS = (
    "os_brick.tests.privileged.test_nvmeof",
    "os_brick.tests.privileged.test_rbd",
    "os_brick.tests.privileged.test_rootwrap",
    "os_brick.tests.test_executor",
    "os_brick.tests.test_utils",
    "os_brick.tests.initiator.test_connector",
    "os_brick.tests.initiator.test_linuxscsi",
    "os_brick.tests.initiator.connectors.test_iscsi",
    "os_brick.tests.initiator.connectors.test_nvmeof",
    "os_brick.tests.initiator.connectors.test_lightos",
    "os_brick.tests.initiator.connectors.test_scaleio",
    "os_brick.tests.initiator.connectors.test_rbd",
    "os_brick.tests.remotefs.test_remotefs",
    "os_brick.tests.local_dev.test_brick_lvm",
    "vif_plug_ovs.tests.unit.test_linux_net",
    "vif_plug_ovs.tests.unit.test_plugin",
)

_PLUG = """
import os
import subprocess
from oslo_config import cfg
from vif_plug_ovs import linux_net, privsep

cfg.CONF([], project="os_vif")
cfg.CONF.set_override(
    "helper_command", "sudo -n {helper}", group="vif_plug_ovs_privileged")


def links():
    shown = subprocess.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
    words = [line.split() for line in shown.splitlines()]
    return sorted(
        line[1].split("@")[0].strip(":")
        + (" of " + line[line.index("master") + 1] if "master" in line else "")
        for line in words if "lo:" not in line[1])


linux_net.ensure_bridge("qbr1")
linux_net.create_veth_pair("qvb1", "qvo1", 1500)
linux_net.add_bridge_port("qbr1", "qvb1")
print(os.getuid() != 0, links())
linux_net.delete_bridge("qbr1", "qvb1")
linux_net.delete_net_dev("qvo1")
print(links())
privsep.vif_plug.stop()
"""


def test_unit_tests_end_as_with_oslos() -> None:
    script = str(environments.TESTS / "both" / "unit_tests.py")
    running = [
        environments.begin(side, script, *_UNIT_TESTS) for side in ("theirs", "ours")
    ]
    theirs, ours = (json.loads(environments.finish(each)) for each in running)
    assert ours == theirs
    assert len(ours) > 700
    assert set(ours.values()) == {"passed"}


@pytest.mark.usefixtures("helper_rule")
def test_an_unprivileged_user_plugs_an_os_vif_bridge_over_sudo(
    service_python: PublicPython, unprivileged_user: str
) -> None:
    # A network namespace, and a sysfs that shows it, where os-vif looks for devices.
    script = _PLUG.format(helper=f"{service_python.prefix}/bin/privsep-helper")
    inside = (
        "mount -t sysfs sysfs /sys && exec setpriv --reuid $0 --regid $0 --init-groups "
        'env HOME=/ "$@"'
    )
    done = subprocess.run(
        [
            "unshare",
            "--net",
            "--mount",
            "sh",
            "-c",
            inside,
            unprivileged_user,
            service_python.executable,
            "-c",
            script,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
    )
    assert done.returncode == 0, done.stderr
    plugged, unplugged = done.stdout.splitlines()
    assert plugged == "True ['qbr1', 'qvb1 of qbr1', 'qvo1']"
    assert unplugged == "[]"
