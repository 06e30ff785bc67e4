"""What services run by way of rootwrap, and what their filters are to make of it.

The filters say what those of the services say, the commands are what the services
run, or what somebody who has taken one over would try.  Each row: whether it is
allowed and by which filter, the command, and why.
"""

# ruff: noqa: E501 - a row is a line

from __future__ import annotations

import shlex
from typing import NamedTuple


class Row(NamedTuple):
    """A command, and what comes of it."""

    service: str
    outcome: str  #: "by FILTER"; "no"; "no executable for FILTER"
    words: tuple[str, ...]
    why: str


NEUTRON = r"""
[Filters]
privsep: PathFilter, privsep-helper, root,
 --config-file, /etc,
 --privsep_context, neutron.privileged.default,
 --privsep_sock_path, /
sleep: RegExpFilter, sleep, root, sleep, \d+
kill_sleep: KillFilter, root, sleep, -9

ip: IpFilter, ip, root
ip_exec: IpNetnsExecFilter, ip, root
find: RegExpFilter, find, root, find, /sys/class/net, -maxdepth, 1, -type, l, -printf, %.*

haproxy: RegExpFilter, haproxy, root, haproxy, -f, .*
haproxy_env: EnvFilter, env, root, PROCESS_TAG=, haproxy, -f, .*
kill_haproxy: KillFilter, root, haproxy, -15, -9, -HUP
dnsmasq: CommandFilter, dnsmasq, root
dnsmasq_env: EnvFilter, env, root, PROCESS_TAG=, dnsmasq
kill_dnsmasq: KillFilter, root, /sbin/dnsmasq, -9, -HUP
kill_dnsmasq_usr: KillFilter, root, /usr/sbin/dnsmasq, -9, -HUP
radvd: CommandFilter, radvd, root
radvd_env: EnvFilter, env, root, PROCESS_TAG=, radvd
keepalived: CommandFilter, keepalived, root
keepalived_env: EnvFilter, env, root, PROCESS_TAG=, keepalived
kill_keepalived: KillFilter, root, keepalived, -HUP, -15, -9
state_change: CommandFilter, neutron-keepalived-state-change, root
conntrackd: CommandFilter, conntrackd, root
conntrackd_env: EnvFilter, env, root, PROCESS_TAG=, conntrackd
conntrack: CommandFilter, conntrack, root
arping: CommandFilter, arping, root
sysctl: CommandFilter, sysctl, root
route: CommandFilter, route, root
netstat: CommandFilter, netstat, root

tc_show: RegExpFilter, tc, root, tc, -p, -s, -d, filter, show, dev, .+, parent, .+, prio, 1
tc_delete: RegExpFilter, tc, root, tc, filter, del, dev, .+, parent, .+, prio, 1, handle, .+, u32

ovs-vsctl: CommandFilter, ovs-vsctl, root
ovs-ofctl: CommandFilter, ovs-ofctl, root
ovsdb-client: CommandFilter, ovsdb-client, root
ivs-ctl: CommandFilter, ivs-ctl, root
brctl: CommandFilter, brctl, root
bridge: CommandFilter, bridge, root
iptables: CommandFilter, iptables, root
iptables-save: CommandFilter, iptables-save, root
iptables-restore: CommandFilter, iptables-restore, root
ip6tables-save: CommandFilter, ip6tables-save, root
ip6tables-restore: CommandFilter, ip6tables-restore, root
ebtables: CommandFilter, ebtables, root
ebtables_env: EnvFilter, ebtables, root, EBTABLES_ATOMIC_FILE=

dhcp_release: CommandFilter, dhcp_release, root
metadata_proxy: CommandFilter, neutron-ns-metadata-proxy, root
metadata_proxy_local: CommandFilter, /usr/local/bin/quantum-ns-metadata-proxy, root
ping: CommandFilter, ping, root
ping_exec: IpNetnsExecFilter, ping, root
dibbler-client: CommandFilter, dibbler-client, root
"""

NEUTRON_ROWS = r"""
by ip | ip link set tap1 up | any command of ip that runs no other
by ip | ip -o link show br-int | an option without a value before the object
by ip | ip addr add 10.0.0.1/24 dev qr-1 | addresses
by ip | ip -4 addr show dev eth0 | the family by number
by ip | ip -6 route list dev eth0 table 16 | the family by number
by ip | ip -f inet route show | the family by name, which takes a word
by ip | ip -family inet6 neigh show | the same in full
by ip | ip -s -d link show | two options
by ip | ip -details -statistics link | options in full
by ip | ip -br addr | in brief
by ip | ip -json addr | as JSON
by ip | ip -n qdhcp-1 link set tap1 up | in a namespace, without exec
by ip | ip -netns qdhcp-1 addr | the same in full
by ip | ip -n qdhcp-1 -o addr show | an option after the namespace
by ip | ip route get 10.0.0.1 | routes
by ip | ip rule add from 10.0.0.0/24 table 16 priority 2 | rules
by ip | ip neigh replace 10.0.0.1 lladdr fa:16:3e:0:0:1 dev qr-1 | neighbours
by ip | ip n show | n is neighbor to ip
by ip | ip a | a is address to ip
by ip | ip l | l is link to ip
by ip | ip tuntap add tap1 mode tap | a device
by ip | ip link add veth0 type veth peer name veth1 netns qrouter-1 | netns as a value
by ip | ip link set veth1 netns qrouter-1 | the same
by ip | ip netns list | one of three commands of netns
by ip | ip -o netns list | with an option
by ip | ip netns | which lists
by ip | ip netns add qrouter-1 | one of three commands of netns
by ip | ip netns delete qrouter-1 | one of three commands of netns
by ip | ip netns del qrouter-1 | a beginning of delete
by ip | ip netns show | another name of list
by ip | ip | which prints how to use it
by ip | ip monitor address | runs nothing
by ip | ip -V | the version
by ip | ip -loops 5 addr flush dev eth0 | an option that takes a number
by ip | ip -rcvbuf 1024 monitor link | an option that takes a number
by ip | ip vrf show | one of vrf that runs nothing
no | ip netns monitor | not one of the three
no | ip netns identify 1 | not one of the three
no | ip netns set qrouter-1 5 | not one of the three
no | ip netns attach name 1 | not one of the three
no | ip netns add ../../etc/x | not the name of a namespace
no | ip netns exec qrouter-1 sh -c id | sh is allowed by no filter
no | ip netns exec qrouter-1 bash | bash is allowed by no filter
no | ip netns exec qrouter-1 | no command follows
no | ip netns exec | neither a namespace nor a command
no | ip -n qrouter-1 netns exec qrouter-2 sh | exec after an option with a word
no | ip vrf exec red sh | runs a command
no | ip -batch /tmp/commands | whose lines may run commands
no | ip -all netns exec sh | runs a command in each namespace
no | ip frobnicate | not an object that is known
no | ip -frobnicate link | not an option that is known
by ip_exec | ip netns exec qrouter-1 ip link | ip is allowed by another filter
by ip_exec | ip netns exec qrouter-1 ip -4 route | with an option
by ip_exec | ip netns exec qrouter-1 ip netns list | and it lists
by ip_exec | ip netns exec qrouter-1 arping -A -I qg-1 -c 3 10.0.0.1 | an address is announced
by ip_exec | ip netns exec qrouter-1 sysctl -w net.ipv4.ip_forward=1 | a setting of the namespace
by ip_exec | ip netns exec qrouter-1 iptables-save | firewall
by ip_exec | ip netns exec qrouter-1 iptables-restore -n | firewall
by ip_exec | ip netns exec qdhcp-1 dnsmasq --no-hosts --interface=tap1 | a DHCP server
by ip_exec | ip netns exec qdhcp-1 env PROCESS_TAG=dnsmasq-1 dnsmasq --no-hosts | with its variable
by ip_exec | ip netns exec qrouter-1 env PROCESS_TAG=keepalived-1 keepalived -P -f /x | with its variable
by ip_exec | ip netns exec qrouter-1 env PROCESS_TAG=haproxy-1 haproxy -f /x | with its variable
by ip_exec | ip netns exec qrouter-1 haproxy -f /var/lib/neutron/x.conf | its pattern holds
by ip_exec | ip netns exec qrouter-1 radvd -C /x -p /y | router advertisements
by ip_exec | ip netns exec qrouter-1 conntrack -D -d 10.0.0.1 | state
by ip_exec | ip netns exec qdhcp-1 dhcp_release tap1 10.0.0.2 fa:16:3e:0:0:1 | a lease ends
by ip_exec | ip netns exec qprobe-1 ping -c 1 10.0.0.1 | a probe
by ip_exec | ip netns exec qrouter-1 tc -p -s -d filter show dev qg-1 parent 1: prio 1 | its patterns hold
by ip_exec | ip netns e qrouter-1 ip link | a beginning of exec
by ip_exec | ip netns exec qrouter-1 find /sys/class/net -maxdepth 1 -type l -printf %f | its patterns hold
no | ip netns exec qrouter-1 find /etc -delete | its patterns do not hold
no | ip netns exec qrouter-1 haproxy -c /x | its patterns do not hold
no | ip netns exec qrouter-1 env dnsmasq | no variable is set
no | ip netns exec qrouter-1 env LD_PRELOAD=/tmp/x.so dnsmasq | another variable
no | ip netns exec qrouter-1 env PROCESS_TAG=x sh | the variable, and another command
no | ip netns exec qrouter-1 /tmp/dnsmasq | another file of the same name
no | ip netns exec qrouter-1 ./dnsmasq | another file of the same name
no | ip netns exec qrouter-1 ip netns exec qrouter-2 sh | a chain in a chain
no | ip netns exec qrouter-1 ip netns exec qrouter-2 ip link | a chain in a chain, as ever
no | ip netns exec ../../proc/1/ns/net ip link | not the name of a namespace
no | ip netns exec -x ip link | an option in its place
no | ip -o netns exec qrouter-1 ip link | only the plain form is for exec
by haproxy | haproxy -f /var/lib/neutron/haproxy.conf | three words, the last is any
no | haproxy | too few words
no | haproxy -f | too few words
no | haproxy -f /x -D | too many words
no | haproxy -C /tmp | another option
no | haproxy -f '/x
' | any word, but no newline
by haproxy_env | env PROCESS_TAG=haproxy-1 haproxy -f /x | the variable and the command
by haproxy_env | PROCESS_TAG=haproxy-1 haproxy -f /x | env itself may be left out
by haproxy_env | env PROCESS_TAG=haproxy-1 haproxy -c /x | only the number of words counts
by haproxy_env | env PROCESS_TAG= haproxy -f /x more | and that is the least number
no | env PROCESS_TAG=haproxy-1 haproxy | too few words
no | env PROCESS_TAG=haproxy-1 haproxy -f | too few words
no | env haproxy -f /x | the variable is not set
no | env PROCESS_TAG=x PATH=/tmp haproxy -f /x | one variable too many
no | env PATH=/tmp haproxy -f /x | another variable
no | env PROCESS_TAG=x PROCESS_TAG=y haproxy -f /x | set twice
no | env -i PROCESS_TAG=x haproxy -f /x | an option of env
no | env -S 'sh -c id' PROCESS_TAG=x haproxy -f /x | an option of env
no | env PROCESS_TAG=x | no command
no | env | nothing at all
no | PROCESS_TAG=x | no command
by dnsmasq | dnsmasq --no-hosts --pid-file=/x | any words
by dnsmasq_env | env PROCESS_TAG=dnsmasq-1 dnsmasq --no-hosts | with its variable
by dnsmasq_env | PROCESS_TAG=dnsmasq-1 dnsmasq | with its variable
no | env NEUTRON_NETWORK_ID=1 dnsmasq | a variable of old
by radvd_env | env PROCESS_TAG=radvd-1 radvd -C /x | with its variable
by conntrackd_env | env PROCESS_TAG=conntrackd-1 conntrackd -d | with its variable
by ebtables_env | EBTABLES_ATOMIC_FILE=/tmp/x ebtables -t nat -L | the command in the first field
by ebtables_env | env EBTABLES_ATOMIC_FILE=/tmp/x ebtables -t nat -L | the same with env
by ebtables | ebtables -t nat -L | any words
by sleep | sleep 10 | digits
no | sleep 10s | not only digits
no | sleep -1 | not only digits
no | sleep '10
' | a newline is no digit
no | sleep 1 2 | too many words
no | sleep | too few words
by tc_show | tc -p -s -d filter show dev qg-1 parent 1: prio 1 | each word holds
no | tc -p -s -d filter show dev qg-1 parent 1: prio 2 | another priority
no | tc -p -s -d filter show dev '' parent 1: prio 1 | the device is empty
by tc_delete | tc filter del dev qg-1 parent 1: prio 1 handle 800::800 u32 | each word holds
no | tc filter del dev qg-1 parent 1: prio 1 handle 800::800 u32 police | too many words
no | tc -batch /tmp/x | not what a filter has
no | tc qdisc add dev eth0 root netem | not what a filter has
by find | find /sys/class/net -maxdepth 1 -type l -printf '%f ' | each word holds
no | find /sys/class/net -maxdepth 1 -type l -exec sh | another option
no | find / -maxdepth 1 -type l -printf %f | another place
no | find /sys/class/net -maxdepth 11 -type l -printf %f | the pattern is for all of the word
no | find /sys/class/net -maxdepth 1 -type l -printf f | must begin with %
by sysctl | sysctl -w net.ipv4.conf.all.forwarding=1 | any words
by ovs-vsctl | ovs-vsctl --timeout=10 -- --may-exist add-br br-int | any words
by ovsdb-client | ovsdb-client monitor Interface name,ofport | any words
by ovs-ofctl | ovs-ofctl add-flows br-int - | any words
by brctl | brctl addif brq1 tap1 | any words
by bridge | bridge fdb append 0:0:0:0:0:0 dev vxlan-1 dst 10.0.0.1 | any words
by netstat | netstat -nlp | any words
by state_change | neutron-keepalived-state-change --router_id=1 | any words
by metadata_proxy | neutron-ns-metadata-proxy --pid_file=/x | by its name
no executable for metadata_proxy_local | quantum-ns-metadata-proxy --pid_file=/x | it is not installed
no executable for metadata_proxy_local | /usr/local/bin/quantum-ns-metadata-proxy --x | by its path
no | /tmp/quantum-ns-metadata-proxy | by another path
by ping | ping -c 1 10.0.0.1 | any words
by ping | ping netns exec qprobe-1 ip link | any words; ping_exec means ip, and is never met
by dibbler-client | dibbler-client start -w /x | any words
no | dibbler-server start | no filter has that name
no | Dnsmasq | names have a case
no | dnsmasq2 | another name
no | dnsmas | another name
no | /tmp/dnsmasq | another file of the same name
no | ./dnsmasq | another file of the same name
no | '' | an empty word
no | kill -9 1 | the init of this machine is none of the programs
no | kill -9 | no process
no | kill 1 | each of the filters has its signals
no | kill -STOP 1 | not a signal of any filter
no | kill -9 -1 | all processes
no | kill -9 0 | our own process group
no | kill -9 1 1 | two processes
no | kill -s 9 1 | another form
no | kill -l | another form
by privsep-helper | privsep-helper --help | always allowed: it trusts nothing of its caller
by privsep | privsep-helper --config-file /etc/neutron/neutron.conf --privsep_context neutron.privileged.default --privsep_sock_path /tmp/x/privsep.sock | the whole line of the filter
by privsep-helper | privsep-helper --config-file /tmp/n.conf --privsep_context neutron.privileged.default --privsep_sock_path /tmp/x/privsep.sock | the file is not beneath /etc, so by the built-in one
by privsep-helper | privsep-helper --config-file /etc/../tmp/n.conf --privsep_context neutron.privileged.default --privsep_sock_path /tmp/x | nor is it here
by privsep-helper | privsep-helper --config-file /etc/n.conf --privsep_context neutron.privileged.link_cmd --privsep_sock_path /tmp/x | another context
no | sh -c 'ip link' | no filter has that name
no | python3 -c pass | no filter has that name
no | sudo ip link | no filter has that name
"""

NOVA = r"""
[Filters]
kpartx: CommandFilter, kpartx, root
tune2fs: CommandFilter, tune2fs, root
mount: CommandFilter, mount, root
umount: CommandFilter, umount, root
qemu-nbd: CommandFilter, qemu-nbd, root
losetup: CommandFilter, losetup, root
blkid: CommandFilter, blkid, root
blockdev: RegExpFilter, blockdev, root, blockdev, (--getsize64|--flushbufs), /dev/.*
tee: CommandFilter, tee, root
mkdir: CommandFilter, mkdir, root
chown: CommandFilter, chown, root
chmod: CommandFilter, chmod, root
ip: CommandFilter, ip, root
tunctl: CommandFilter, tunctl, root
dd: CommandFilter, dd, root
iscsiadm: CommandFilter, iscsiadm, root
parted: CommandFilter, parted, root
e2fsck: CommandFilter, e2fsck, root
dnsmasq: EnvFilter, env, root, CONFIG_FILE=, NETWORK_ID=, dnsmasq
dnsmasq_old: DeprecatedDnsmasqFilter, /usr/sbin/dnsmasq, root
kill_radvd: KillFilter, root, /usr/sbin/radvd
mkfs: CommandFilter, mkfs, root
mkfs.ext4: CommandFilter, mkfs.ext4, root
readlink: CommandFilter, readlink, root
read_initiator: ReadFileFilter, /etc/iscsi/initiatorname.iscsi
read_passwd: RegExpFilter, cat, root, cat, (/var|/usr)?/tmp/openstack-vfs-localfs[^/]+/etc/passwd
read_shadow: RegExpFilter, cat, root, cat, (/var|/usr)?/tmp/openstack-vfs-localfs[^/]+/etc/shadow
drv_cfg: CommandFilter, /opt/emc/scaleio/sdc/bin/drv_cfg, root, /opt/emc/scaleio/sdc/bin/drv_cfg, --query_guid
scsi_id: CommandFilter, /lib/udev/scsi_id, root
ln: RegExpFilter, ln, root, ln, --symbolic, --force, /dev/mapper/.*, .*
cryptsetup: CommandFilter, cryptsetup, root
ploop: CommandFilter, ploop, root
ietadm: CommandFilter, /usr/sbin/ietadm, root
iscsiadm_usr: CommandFilter, /usr/bin/iscsiadm, root
nova-idmapshift: CommandFilter, nova-idmapshift, root
"""

NOVA_ROWS = r"""
by kpartx | kpartx -a /dev/nbd0 | any words
by kpartx | kpartx -d /dev/nbd0 | any words
by kpartx | kpartx | no words are some
by tune2fs | tune2fs -O ^has_journal /dev/nbd0p1 | any words
by mount | mount -t ext4 /dev/nbd0p1 /tmp/x | any words
by mount | mount -o bind /a /b | any words
by umount | umount /tmp/x | any words
by qemu-nbd | qemu-nbd -c /dev/nbd0 /var/lib/nova/disk | any words
by losetup | losetup --find --show /x | any words
by blkid | blkid -o value -s TYPE /dev/nbd0 | any words
by blockdev | blockdev --getsize64 /dev/nbd0 | the first choice
by blockdev | blockdev --flushbufs /dev/nbd0 | the second choice
by blockdev | blockdev --flushbufs /dev/disk/by-path/x | any device
no | blockdev --setro /dev/nbd0 | neither choice
no | blockdev --getsize64 /etc/shadow | no device
no | blockdev --getsize64 /dev/nbd0 /dev/nbd1 | too many words
no | blockdev --getsize64 | too few words
no | blockdev --getsize64x /dev/nbd0 | a choice is all of the word
no | blockdev x--flushbufs /dev/nbd0 | a choice is all of the word
no | blockdev --getsize64 x/dev/nbd0 | the pattern begins at the beginning
no | blockdev --flushbufs '/dev/nbd0
' | a newline at the end
by tee | tee -a /x | any words
by mkdir | mkdir -p /x | any words
by chown | chown nova /var/lib/nova/console.log | any words
by chmod | chmod 0700 /x | any words
by ip | ip link set tap1 up | any words
by ip | ip netns exec x sh | a CommandFilter allows any words, and root wrote one
by tunctl | tunctl -b -t tap1 | any words
by dd | dd if=/a of=/b | any words
by iscsiadm | iscsiadm -m node -T iqn -p 10.0.0.1:3260 --login | any words
by parted | parted --script /dev/x mklabel msdos | any words
by e2fsck | e2fsck -f -p /x | any words
by dnsmasq | env CONFIG_FILE=/x NETWORK_ID=1 dnsmasq --strict-order | both variables
by dnsmasq | CONFIG_FILE=/x NETWORK_ID=1 dnsmasq | without env
by dnsmasq | env NETWORK_ID=1 CONFIG_FILE=/x dnsmasq | in another order
by dnsmasq | env CONFIG_FILE= NETWORK_ID= dnsmasq | empty values
by dnsmasq | env CONFIG_FILE=a=b NETWORK_ID=1 dnsmasq | a value with a sign
no | env CONFIG_FILE=/x dnsmasq | one variable is missing
no | env NETWORK_ID=1 dnsmasq | one variable is missing
no | env CONFIG_FILE=/x NETWORK_ID=1 | no command
no | env CONFIG_FILE=/x NETWORK_ID=1 dnsmasq2 | another command
no | env CONFIG_FILE=/x NETWORK_ID=1 /tmp/dnsmasq | another file of the same name
no | env CONFIG_FILE=/x CONFIG_FILE=/y dnsmasq | one variable twice
no | env CONFIG_FILE=/x NETWORK_ID=1 LD_PRELOAD=/x dnsmasq | a third variable
no | env CONFIG_FILE=/x LD_PRELOAD=/x dnsmasq | another variable
no | env config_file=/x NETWORK_ID=1 dnsmasq | names have a case
no | env CONFIG_FILE NETWORK_ID=1 dnsmasq | a name without a value
no | dnsmasq | no variables
no | env dnsmasq | no variables
by mkfs | mkfs -t ext3 /dev/x | any words
by mkfs.ext4 | mkfs.ext4 -L x /dev/x | a name with a dot
no | mkfsXext4 /dev/x | a name is no pattern
no | mkfs.ext2 /dev/x | no filter has that name
by readlink | readlink -e /x | any words
by read_initiator | cat /etc/iscsi/initiatorname.iscsi | this very file
no | cat /etc/iscsi/../shadow | another file
no | cat /etc/iscsi/../iscsi/initiatorname.iscsi | the file by another name
no | cat /etc/iscsi/initiatorname.iscsi /etc/shadow | another file, too
no | cat /etc//iscsi/initiatorname.iscsi | the file by another name
no | cat -n /etc/iscsi/initiatorname.iscsi | an option
no | cat | would read its input
no | cat /etc/shadow | another file
by read_passwd | cat /tmp/openstack-vfs-localfsAbC/etc/passwd | the pattern without a prefix
by read_passwd | cat /var/tmp/openstack-vfs-localfsAbC/etc/passwd | the pattern with a prefix
by read_shadow | cat /usr/tmp/openstack-vfs-localfsAbC/etc/shadow | the pattern with a prefix
no | cat /tmp/openstack-vfs-localfs/etc/passwd | the part that may not be empty
no | cat /tmp/openstack-vfs-localfsA/B/etc/passwd | a slash where none may be
no | cat /tmp/openstack-vfs-localfsA/etc/passwd- | more at the end
no | cat /home/tmp/openstack-vfs-localfsA/etc/passwd | another prefix
no | cat '/tmp/openstack-vfs-localfsA/etc/passwd
' | a newline at the end
no executable for drv_cfg | /opt/emc/scaleio/sdc/bin/drv_cfg --query_guid | it is not installed
no executable for drv_cfg | drv_cfg --query_guid | by its name
no | /tmp/drv_cfg --query_guid | another file of the same name
no executable for scsi_id | scsi_id --page 0x83 /dev/sdx | it is not installed
no executable for scsi_id | /lib/udev/scsi_id --page 0x83 /dev/sdx | by its path
by ln | ln --symbolic --force /dev/mapper/x /tmp/y | each word holds
no | ln --symbolic --force /etc/shadow /tmp/y | not beneath /dev/mapper
no | ln --symbolic /dev/mapper/x /tmp/y | too few words
no | ln -s -f /dev/mapper/x /tmp/y | other options
by cryptsetup | cryptsetup create x /dev/x --key-file=- | any words
by ploop | ploop grow -s 1G /x | any words
no executable for ietadm | ietadm --op new | it is not installed
by iscsiadm | iscsiadm -m session | the first filter of two wins
by nova-idmapshift | nova-idmapshift -i -u 0:10000:1 /x | any words
no | kill -9 1 | the filter has no signal
no | kill -TERM 1 | the filter has no signal
no | kill 1 | another program
no | kill notapid | no process
no | kill | no process
no | sginfo -s | no filter has that name
no | bash -c id | no filter has that name
no | CommandFilter | no filter has that name
no | kpartx_x | no filter has that name
no | KPARTX -a x | names have a case
no | ' kpartx' | a name with a space
no | 'kpartx -a' | a name with a space
"""

CINDER = r"""
[Filters]
tgtadm: CommandFilter, tgtadm, root
cinder-rtstool: CommandFilter, cinder-rtstool, root
pvs: EnvFilter, env, root, LC_ALL=C, pvs
vgs: EnvFilter, env, root, LC_ALL=C, vgs
lvs: EnvFilter, env, root, LC_ALL=C, lvs
lvs_lvmconf: EnvFilter, env, root, LVM_SYSTEM_DIR=, LC_ALL=C, lvs
vgcreate: CommandFilter, vgcreate, root
lvcreate: CommandFilter, lvcreate, root
lvremove: CommandFilter, lvremove, root
dd: CommandFilter, dd, root
ionice_1: ChainingRegExpFilter, ionice, root, ionice, -c[0-3], -n[0-7]
ionice_2: ChainingRegExpFilter, ionice, root, ionice, -c[0-3]
cgcreate: CommandFilter, cgcreate, root
cgexec: ChainingRegExpFilter, cgexec, root, cgexec, -g, blkio:\S+
ln: CommandFilter, ln, root
qemu-img: EnvFilter, env, root, LC_ALL=C, qemu-img
qemu-img_convert: CommandFilter, qemu-img, root
cat: CommandFilter, cat, root
netapp_nfs_find: RegExpFilter, find, root, find, ^[/]*([^/\0]+(/+)?)*$, -maxdepth, \d+, -name, img-cache.*, -amin, \+\d+
find_maxdepth_inum: RegExpFilter, find, root, find, ^[/]*([^/\0]+(/+)?)*$, -maxdepth, \d+, -inum, \d+
hus-cmd: CommandFilter, hus-cmd, root
mmgetstate: CommandFilter, /usr/lpp/mmfs/bin/mmgetstate, root
dsmc:CommandFilter,/usr/bin/dsmc,root
horcmgr: EnvFilter, env, root, HORCMINST=, /etc/horcmgr
auman: EnvFilter, env, root, LANG=, STONAVM_HOME=, LD_LIBRARY_PATH=, STONAVM_RSP_PASS=, STONAVM_ACT=, /usr/stonavm/auman
mv: CommandFilter, mv, root
mv: CommandFilter, mv, root
"""

CINDER_ROWS = r"""
by tgtadm | tgtadm --lld iscsi --op show --mode target | any words
by cinder-rtstool | cinder-rtstool verify | any words
by lvs | env LC_ALL=C lvs --noheadings --unit=g -o size | with its variable
by lvs | LC_ALL=C lvs | without env
by lvs | env LC_ALL=POSIX lvs | an EnvFilter says nothing of values
by pvs | env LC_ALL=C pvs --noheadings | with its variable
by vgs | env LC_ALL=C vgs --noheadings | with its variable
by lvs_lvmconf | env LVM_SYSTEM_DIR=/etc/cinder LC_ALL=C lvs | both variables
by lvs_lvmconf | env LC_ALL=C LVM_SYSTEM_DIR=/etc/cinder lvs | in another order
no | lvs --noheadings | without its variable
no | env lvs | without its variable
no | env LC_ALL=C lvdisplay | another command
no | env LC_ALL=C LVM_SYSTEM_DIR=/x pvs | that filter has one variable only
no | env LC_CTYPE=C lvs | another variable
no | env LC_ALL=C sh -c lvs | another command
by vgcreate | vgcreate cinder-volumes /dev/sdb | any words
by lvcreate | lvcreate -n volume-1 cinder-volumes -L 1g | any words
by lvremove | lvremove --config activation{} -f cinder-volumes/volume-1 | any words
by dd | dd if=/dev/zero of=/dev/mapper/x bs=1M | any words
by ionice_1 | ionice -c2 -n7 dd if=/a of=/b | both words, then an allowed command
by ionice_2 | ionice -c3 dd if=/a of=/b | one word, then an allowed command
by ionice_2 | ionice -c3 lvremove -f x | and another command
by ionice_1 | ionice -c0 -n0 qemu-img convert a b | the least of both
by ionice_2 | ionice -c3 env LC_ALL=C lvs | a command with its variable
by cgexec | cgexec -g blkio:cinder-volume-copy dd if=/a of=/b | a group, then an allowed command
no | cgexec -g blkio: dd if=/a of=/b | the group has no name
no | cgexec -g 'blkio:a b' dd | a space in the group's name
no | cgexec -g cpu:x dd if=/a | another controller
no | cgexec -g blkio:x sh -c id | another command
no | cgexec -g blkio:x | no command
no | cgexec -g blkio:x ionice -c3 dd if=/a | a chain in a chain
no | ionice -c4 dd if=/a of=/b | another class
no | ionice -c3x dd if=/a | the pattern is for all of the word
no | ionice -c2 -n8 dd if=/a of=/b | another level: -n8 is then the command
no | ionice dd if=/a of=/b | no class
no | ionice -c3 | no command
no | ionice -c3 sh | another command
no | ionice -c3 /tmp/dd if=/a | another file of the same name
no | ionice -p 1 -c3 | another form
no | ionice -c3 -p 1 | -p is then the command
no | ionice -c3 ionice -c3 dd | a chain in a chain
by qemu-img | env LC_ALL=C qemu-img info /x | with its variable
by qemu-img_convert | qemu-img convert -O raw a b | without it
by cat | cat /x | any words
by ln | ln -s a b | any words
by netapp_nfs_find | find /mnt/x -maxdepth 1 -name img-cache* -amin +60 | each word holds
by netapp_nfs_find | find //mnt//x/ -maxdepth 1 -name img-cache-1 -amin +60 | with more slashes
no | find /mnt/x -maxdepth 1 -name x -amin +60 | another name
no | find /mnt/x -maxdepth one -name img-cache* -amin +60 | no number
no | find /mnt/x -maxdepth 1 -name img-cache* -amin 60 | no sign
no | find /mnt/x -maxdepth 1 -name img-cache* -delete | another option
by find_maxdepth_inum | find /gpfs -maxdepth 1 -inum 1234 | each word holds
no | find /gpfs -maxdepth 1 -inum 1234 -delete | too many words
no | find /gpfs -maxdepth 1 -exec id | another option
by hus-cmd | hus-cmd --version | any words
no executable for mmgetstate | mmgetstate -Y | it is not installed
no executable for mmgetstate | /usr/lpp/mmfs/bin/mmgetstate -Y | by its path
no | /opt/mmgetstate -Y | by another path
no executable for dsmc | dsmc quit | a line without spaces
no executable for dsmc | /usr/bin/dsmc quit | by its path
no executable for horcmgr | env HORCMINST=1 /etc/horcmgr -check | by its path, with its variable
no executable for horcmgr | env HORCMINST=1 horcmgr -check | by its name
no | env HORCMINST=1 /tmp/horcmgr | by another path
no | /etc/horcmgr -check | without its variable
no executable for auman | env LANG=C STONAVM_HOME=/x LD_LIBRARY_PATH=/x STONAVM_RSP_PASS=on STONAVM_ACT=on /usr/stonavm/auman -help | five variables, as root wrote it
no | env LANG=C STONAVM_HOME=/x STONAVM_RSP_PASS=on STONAVM_ACT=on /usr/stonavm/auman -help | one is missing
by mv | mv a b | a name that is there twice counts once
"""

OS_BRICK = r"""
[Filters]
mount: CommandFilter, mount, root
blockdev: RegExpFilter, blockdev, root, blockdev, (--getsize64|--flushbufs), /dev/.*
tee: CommandFilter, tee, root
mkdir: CommandFilter, mkdir, root
chown: RegExpFilter, chown, root, chown root:root /etc/pstorage/clusters/(?!.*/\.\.).*
ip: CommandFilter, ip, root
dd: CommandFilter, dd, root
iscsiadm: CommandFilter, iscsiadm, root
aoe-revalidate: CommandFilter, aoe-revalidate, root
aoe-discover: CommandFilter, aoe-discover, root
read_initiator: ReadFileFilter, /etc/iscsi/initiatorname.iscsi
multipath: CommandFilter, multipath, root
multipathd: CommandFilter, multipathd, root
systool: CommandFilter, systool, root
sg_scan: CommandFilter, sg_scan, root
cp: CommandFilter, cp, root
drv_cfg: CommandFilter, /opt/emc/scaleio/sdc/bin/drv_cfg, root, /opt/emc/scaleio/sdc/bin/drv_cfg, --query_guid
sds_cli: CommandFilter, /usr/local/bin/sds/sds_cli, root
vgc-cluster: CommandFilter, vgc-cluster, root
privsep: RegExpFilter, privsep-helper, root, privsep-helper, --config-file, /etc/(?!\.\.).*, --privsep_context, os_brick.privileged.default, --privsep_sock_path, /tmp/.*
"""

OS_BRICK_ROWS = r"""
by mount | mount -t sofs /x /y | any words
by blockdev | blockdev --flushbufs /dev/sdx | one of the choices
no | blockdev --rereadpt /dev/sdx | none of the choices
by tee | tee -a /sys/class/scsi_host/host0/scan | any words
by mkdir | mkdir -p /etc/pstorage/clusters/x | any words
no | chown root:root /etc/pstorage/clusters/x | the filter has it in one word, by mistake
no | chown root /etc/shadow | nor is this allowed
by ip | ip addr list | any words
by dd | dd if=/dev/sdx of=/dev/null count=1 | any words
by iscsiadm | iscsiadm -m discoverydb -t sendtargets -p 10.0.0.1:3260 -I default --discover | any words
by aoe-revalidate | aoe-revalidate e1.1 | any words
by aoe-discover | aoe-discover | no words are some
no | aoe-flush e1.1 | no filter has that name
by read_initiator | cat /etc/iscsi/initiatorname.iscsi | this very file
no | cat /etc/passwd | another file
by multipath | multipath -ll | any words
by multipathd | multipathd show status | any words
by systool | systool -c fc_host -v | any words
by sg_scan | sg_scan /dev/sdx | any words
by cp | cp -f /tmp/x /y | any words
no executable for drv_cfg | /opt/emc/scaleio/sdc/bin/drv_cfg --query_guid | it is not installed
no executable for sds_cli | sds_cli attach_volume x | it is not installed
no executable for sds_cli | /usr/local/bin/sds/sds_cli detach_volume x | by its path
by vgc-cluster | vgc-cluster domain-list -1 | any words
by privsep | privsep-helper --config-file /etc/nova/nova.conf --privsep_context os_brick.privileged.default --privsep_sock_path /tmp/tmpx/privsep.sock | each word holds
by privsep-helper | privsep-helper --config-file /etc/../tmp/x --privsep_context os_brick.privileged.default --privsep_sock_path /tmp/x | the pattern does not hold: the built-in filter allows it
by privsep-helper | privsep-helper --config-file /etc/nova/nova.conf --privsep_context evil.context --privsep_sock_path /tmp/x | another context
no | privsep-helper2 | another name
no | scsi_id --whitelisted | no filter has that name
"""

IRONIC = r"""
[Filters]
iscsiadm: CommandFilter, iscsiadm, root
blkid: CommandFilter, blkid, root
blockdev: CommandFilter, blockdev, root
hexdump: CommandFilter, hexdump, root
lsblk: CommandFilter, lsblk, root
qemu-img: CommandFilter, qemu-img, root
wipefs: CommandFilter, wipefs, root
sgdisk: CommandFilter, sgdisk, root
partprobe: CommandFilter, partprobe, root
mkswap: CommandFilter, mkswap, root
mkfs: CommandFilter, mkfs, root
mount: CommandFilter, mount, root
umount: CommandFilter, umount, root
dd: CommandFilter, dd, root
fuser: CommandFilter, fuser, root
parted: CommandFilter, parted, root
ipmitool: CommandFilter, /usr/bin/ipmitool, root
kill_shellinaboxd: KillFilter, root, /usr/local/bin/shellinaboxd, -15, -TERM
"""

IRONIC_ROWS = r"""
by iscsiadm | iscsiadm -m node -p 10.0.0.1:3260 -T iqn --logout | any words
by blkid | blkid -s UUID -o value /dev/x-part1 | any words
by blockdev | blockdev --getsize64 /dev/x | any words
by blockdev | blockdev --setro /dev/x | any words, as root wrote a CommandFilter
by hexdump | hexdump -s 440 -n 4 -e 0x%08x /dev/x | any words
by lsblk | lsblk -P -b -o UUID | any words
by qemu-img | qemu-img convert -O raw a b | any words
by wipefs | wipefs --force --all /dev/x | any words
by sgdisk | sgdisk -Z /dev/x | any words
by partprobe | partprobe /dev/x | any words
by mkswap | mkswap -L swap1 /dev/x | any words
by mkfs | mkfs -t ext4 -F -L ephemeral0 /dev/x | any words
by mount | mount -o loop /x /y | any words
by umount | umount /y | any words
by dd | dd if=/x of=/dev/y bs=1M oflag=direct | any words
by fuser | fuser /dev/x | any words
by parted | parted -a optimal -s /dev/x -- unit MiB mklabel msdos | any words
no executable for ipmitool | ipmitool -I lanplus power on | it is not installed
no executable for ipmitool | /usr/bin/ipmitool power status | by its path
no | /usr/sbin/ipmitool power status | by another path
no | kill -TERM 1 | no shellinaboxd
no | kill -9 1 | not one of its signals
no | kill -15 notapid | no process
no | mdadm --stop /dev/md0 | no filter has that name
no | env dd | no filter has variables
no | shellinaboxd | named by a filter, but only to be signalled
no | ../bin/dd if=/x | a path to another file
"""

MANILA = r"""
[Filters]
chown: CommandFilter, chown, root
cat: CommandFilter, cat, root
mkfs.ext4: CommandFilter, mkfs.ext4, root
smbd: CommandFilter, smbd, root
rmdir: CommandFilter, rmdir, root
fsck: CommandFilter, fsck, root
smbcontrol: CommandFilter, smbcontrol, root
net: CommandFilter, net, root
lvextend: CommandFilter, lvextend, root
rm: CommandFilter, rm, root
gluster: CommandFilter, gluster, root
ip: CommandFilter, ip, root
find: CommandFilter, find, root
mmlsattr: CommandFilter, mmlsattr, root
rsync: CommandFilter, rsync, root
exportfs: CommandFilter, exportfs, root
df: CommandFilter, df, root
mktemp: CommandFilter, mktemp, root
shcat: RegExpFilter, sh, root, sh, -c, echo '((.|\n)*)' > /.*
dbus-addexport: RegExpFilter, dbus-send, root, dbus-send, --print-reply, --system, --dest=org\.ganesha\.nfsd, /org/ganesha/nfsd/ExportMgr, org\.ganesha\.nfsd\.exportmgr\.(Add|Remove)Export, .*, .*
dbus-removeexport: RegExpFilter, dbus-send, root, dbus-send, --print-reply, --system, --dest=org\.ganesha\.nfsd, /org/ganesha/nfsd/ExportMgr, org\.ganesha\.nfsd\.exportmgr\.(Add|Remove)Export, .*
rmconf: RegExpFilter, sh, root, sh, -c, rm -f /.*/\*\.conf$
zpool: CommandFilter, zpool, root
zfs: CommandFilter, zfs, root
touch: CommandFilter, touch, root
"""

MANILA_ROWS = r"""
by chown | chown 1000 /x | any words
by cat | cat /x | any words
by mkfs.ext4 | mkfs.ext4 /dev/mapper/x | any words
by smbd | smbd -s /x -D | any words
by rmdir | rmdir /x | any words
by fsck | fsck -pf /dev/x | any words
by smbcontrol | smbcontrol all close-share x | any words
by net | net conf addshare x /x writeable=y guest_ok=y | any words
by net | net conf setparm x 'hosts allow' '10.0.0.1 10.0.0.2' | words with spaces
by lvextend | lvextend -L 2G -n /dev/x | any words
by rm | rm -rf /x | any words
by gluster | gluster --xml volume info x | any words
by ip | ip netns exec x y | any words, as root wrote a CommandFilter
by find | find /x -mindepth 1 -delete | any words
by mmlsattr | mmlsattr /x | any words
by rsync | rsync -rp /a /b | any words
by exportfs | exportfs | no words are some
by df | df -P -B 1 /x | any words
by mktemp | mktemp -p /x -t y | any words
by shcat | sh -c "echo 'one' > /x/y.conf" | as the pattern has it
by shcat | sh -c "echo 'one
two' > /x/y.conf" | with a newline, which the pattern names
by shcat | sh -c "echo 'x' > /y; id" | the pattern allows it: it is not a safe one
no | sh -c "echo 'one' >> /x/y.conf" | another sign
no | sh -c "echo one > /x" | no quotes
no | sh -c id | another text
no | sh -c "echo 'one' > relative" | no path from the root
no | sh -c "echo 'one' > /x
" | a newline at the end
no | sh -x -c "echo 'one' > /x" | too many words
no | sh | too few words
by rmconf | sh -c 'rm -f /x/*.conf' | as the pattern has it
no | sh -c 'rm -f /x/*.conf /etc/passwd' | more at the end
no | sh -c 'rm -f /x/y.conf' | the star is literal
no | sh -c 'rm -f /x/*.conf
' | a newline at the end
no | sh -c 'rm -f /x/*Xconf' | the dot is literal
by dbus-addexport | dbus-send --print-reply --system --dest=org.ganesha.nfsd /org/ganesha/nfsd/ExportMgr org.ganesha.nfsd.exportmgr.AddExport string:/x string:EXPORT | each word holds
by dbus-removeexport | dbus-send --print-reply --system --dest=org.ganesha.nfsd /org/ganesha/nfsd/ExportMgr org.ganesha.nfsd.exportmgr.RemoveExport uint16:1 | each word holds
no | dbus-send --print-reply --system --dest=org.freedesktop.systemd1 /org/ganesha/nfsd/ExportMgr org.ganesha.nfsd.exportmgr.AddExport x y | another destination
no | dbus-send --print-reply --system --dest=orgXganeshaXnfsd /org/ganesha/nfsd/ExportMgr org.ganesha.nfsd.exportmgr.AddExport x y | the dots are literal
no | dbus-send --print-reply --system --dest=org.ganesha.nfsd /org/ganesha/nfsd/ExportMgr org.ganesha.nfsd.exportmgr.DisplayExport x | another method
no | dbus-send --print-reply --session --dest=org.ganesha.nfsd /org/ganesha/nfsd/ExportMgr org.ganesha.nfsd.exportmgr.AddExport x y | another bus
by zpool | zpool list | any words
by zfs | zfs create x/y | any words
by touch | touch --reference=/a /b | any words
no | mount -t nfs x y | no filter has that name
no | shcat | the name of a filter is no command
no | zfsx | another name
"""

SERVICES = {
    "neutron": (NEUTRON, NEUTRON_ROWS),
    "nova": (NOVA, NOVA_ROWS),
    "cinder": (CINDER, CINDER_ROWS),
    "os-brick": (OS_BRICK, OS_BRICK_ROWS),
    "ironic": (IRONIC, IRONIC_ROWS),
    "manila": (MANILA, MANILA_ROWS),
}


def rows() -> list[Row]:
    """Return all rows; one begins where a line begins with an outcome."""
    found = []
    for service, (_, text) in SERVICES.items():
        joined: list[str] = []
        for line in text.strip("\n").split("\n"):
            if line.startswith(("by ", "no ")):
                joined.append(line)
            else:
                joined[-1] += "\n" + line
        for row in joined:
            outcome, rest = row.split(" | ", 1)
            command, why = rest.rsplit(" | ", 1)
            found.append(Row(service, outcome, tuple(shlex.split(command)), why))
    return found
