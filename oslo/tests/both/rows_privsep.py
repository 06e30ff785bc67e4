"""What a service sees of oslo.privsep: printed as JSON, a row each.

Run with the interpreter of either environment: ``rows_privsep.py fork | rootwrap``.
Each row is a text: what an expression came to, or what it raised.
"""

import functools
import json
import logging
import os
import re
import sys
import tempfile
import threading

from oslo_config import cfg

import neutronlike
from neutronlike import operations
from oslo_privsep import capabilities, comm, daemon, priv_context

METHOD = sys.argv[1]
ROWS: dict[str, str] = {}


def say(value):
    return f"{type(value).__name__} {value!r}"


def raised(error):
    """Show an exception: class, arguments, attributes that a caller looks at."""
    if isinstance(error, cfg.ConfigFileValueError):
        return "!! ConfigFileValueError"
    shown = {
        name: getattr(error, name)
        for name in ("errno", "filename", "first", "kwargs", "extra", "exit_code", "cmd")
        if getattr(error, name, None) is not None
    }
    notes = getattr(error, "__notes__", [])
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    return f"!! {kind} {error.args!r} {shown}" + (f" notes {notes}" if notes else "")


def row(name, call, *args, **kwargs):
    try:
        ROWS[name] = say(call(*args, **kwargs))
    except BaseException as error:
        ROWS[name] = raised(error)
    ROWS[name] = re.sub(r"0x[0-9a-f]+", "0x", ROWS[name].replace(sys.prefix, "PREFIX"))


VALUES = """
None; True; 1; -2**63; 2**64-1; 2**64; -2**63-1; 1.5; float('inf'); 'a'; '\\udcff'
'\\ud800'; b'a'; bytearray(b'x'); memoryview(b'y'); memoryview(b'abcd').cast('I')
[1,[2]]; (1,(2,)); []; [[]]; {}; (); ''; {1:2}; {(1,2):3}; {None:1}; {b'x':1}
{1.5:2}; {True:1}; {'a':[1]}; {(1,(2,3)):(4,)}; operations.Colour.RED; OrderedDict(a=1)
defaultdict(list,a=[1]); Text('t'); Number(3); Mapping(a=1); Listing([1]); Pair(1,2)
{1,2}; frozenset([1]); iter([1]); (i for i in [])
datetime(2020,1,1); timedelta(1); len; object(); 1j; range(3); Ellipsis; Decimal(1)
UUID(int=1); Path('/'); [object()]; {'k':{1}}; array('i',[1]); Timestamp(1)
ExtType(5,b'x'); IPv4Address('10.0.0.1'); Fraction(1,2); type
"""
RETURNED = """
set(); object(); 2**64; -2**63-1; (i for i in []); len; Colour.RED; [1]; bytearray(b'x')
memoryview(b'x'); logging.Logger('x'); {1:{2}}; '\\udcff'; {(1,2):[3]}; Plain('x'); time
"""
EXCEPTIONS = """
Plain('x', [1], {'a': 1}); Plain(); Two(1, 2); Keyword(a=3); Keyword('m', b=4)
Local('local'); FileNotFoundError(2, 'none', '/x'); OSError(5, 'io')
PermissionError(13, 'no'); Plain(object()); Plain({1}); KeyError('k'); StopIteration(4)
ValueError(Colour.RED); Plain(b'x', '\\udcff', 2**70); UnicodeDecodeError('utf-8', b'x', 0, 1, 'bad')
ExceptionGroup('group', [ValueError(1)]); TimeoutError('slow'); NameError('n')
TypeError('t', (1, [2])); subprocess.CalledProcessError(3, ['cmd'], 'out', 'err')
"""


def expressions(text):
    for line in text.strip().splitlines():
        yield from (each.strip() for each in line.split(";"))


def values():
    from array import array
    from collections import OrderedDict, defaultdict, namedtuple
    from datetime import datetime, timedelta
    from decimal import Decimal
    from fractions import Fraction
    from ipaddress import IPv4Address
    from pathlib import Path
    from uuid import UUID

    from msgpack import ExtType, Timestamp

    names = {
        **globals(),
        **locals(),
        "Text": type("Text", (str,), {}),
        "Number": type("Number", (int,), {}),
        "Mapping": type("Mapping", (dict,), {}),
        "Listing": type("Listing", (list,), {}),
        "Pair": namedtuple("Pair", "a b"),
    }
    for each in expressions(VALUES):
        row(f"value: {each}", operations.echo, eval(each, names))
        row(f"value in the daemon: {each}", operations.shown, eval(each, names))
    for each in expressions(RETURNED):
        row(f"returned: {each}", operations.evaluate, each)
    deep = functools.reduce(lambda inner, _: [inner], range(300), [])
    row("value: 300 lists deep", lambda: str(operations.echo(deep)).count("("))
    row("value: 100,000 numbers", lambda: sum(operations.echo(list(range(100_000)))))
    row("value: 8 MiB", lambda: len(operations.echo(b"x" * (8 << 20))))
    row("keywords", operations.echo, value=[1])
    row("an argument too many", operations.echo, 1, 2)
    row("an argument too few", operations.echo)


def exceptions():
    for each in expressions(EXCEPTIONS):
        row(f"exception: {each}", operations.fail, each)
    try:
        operations.fail_for_a_cause()
    except operations.Plain as error:
        ROWS["exception: cause"] = raised(error)


def foreign_exceptions():
    code = "__import__('oslo_concurrency.processutils').processutils.ProcessExecutionError"
    five = "('out', 'err', 3, 'cmd', 'what')"
    row("exception: ProcessExecutionError", operations.fail, f"{code}{five}")
    sub = "__import__('neutronlike.failing').failing.CommandFailed"
    row("exception: a subclass of it", operations.fail, f"{sub}{five}")
    netlink = "__import__('pyroute2.netlink.exceptions').netlink.exceptions.NetlinkError"
    row("exception: NetlinkError", operations.fail, f"{netlink}(17, 'File exists')")


class Recorder(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


LOGGERS = ("oslo.privsep.daemon", "neutronlike.operations", "another")


def recorded(call):
    """Return what reached which logger while `call` ran."""
    recorders = {name: Recorder() for name in LOGGERS}
    for name, recorder in recorders.items():
        logging.getLogger(name).addHandler(recorder)
    try:
        call()
        for _ in range(3):  # what is logged by a thread of its own
            operations.echo(1)
    finally:
        for name, recorder in recorders.items():
            logging.getLogger(name).removeHandler(recorder)
    return recorders


def show_records(recorders, ours=("neutronlike.operations", "another")):
    found = []
    for name, recorder in recorders.items():
        found += [
            (name, r.name, r.levelname, r.getMessage(), bool(r.exc_info),
             (r.exc_text or "").splitlines()[-1:], r.args, r.processName, r.funcName,
             r.module)
            for r in recorder.records
            if r.name in ours
        ]
    return found


def logs():
    row("log: records", lambda: show_records(recorded(operations.log_records)))
    logger = logging.getLogger("oslo.privsep.daemon")
    logger.setLevel(logging.ERROR)
    row("log: the client's level holds", lambda: show_records(recorded(operations.log_records)))
    logger.setLevel(logging.NOTSET)
    logging.getLogger("neutronlike.operations").setLevel(logging.CRITICAL)
    row("log: the level of another logger", lambda: show_records(recorded(operations.log_records)))
    logging.getLogger("neutronlike.operations").setLevel(logging.NOTSET)
    row("log: formatted by oslo.log", format_by_oslo)


def format_by_oslo():
    from oslo_log import formatters
    from oslo_log import log

    log.register_options(cfg.CONF)
    formatter = formatters.ContextFormatter(config=cfg.CONF, project="p", version="v")
    recorders = recorded(operations.log_records)
    return [
        " ".join(formatter.format(record).splitlines()[-1].split()[3:])
        for record in recorders["oslo.privsep.daemon"].records
        if record.name == "neutronlike.operations"
    ]


def tracebacks():
    def call():
        try:
            operations.fail("KeyError(1)")
        except KeyError:
            pass

    def shown():
        records = recorded(call)["oslo.privsep.daemon"].records
        return [
            (r.levelname, r.getMessage().startswith("Privsep daemon traceback: Traceback"),
             "in fail" in r.getMessage())
            for r in records
        ]

    row("log: log_daemon_traceback", shown)


def names():
    def call(name):
        return neutronlike.default.channel.remote_call(name, (), {}, None)

    row("name: no entrypoint", call, "neutronlike.evil.plain")
    row("name: outside of the prefix", call, "os.getpid")
    row("name: begins as the prefix does", call, "neutronlike_evil.name")
    mark = f"{sys.prefix}/neutronlike_evil-imported"
    ROWS["name: what begins as the prefix is imported"] = str(os.path.exists(mark))
    if os.path.exists(mark):
        os.unlink(mark)
    row("name: no such module", call, "neutronlike.none.name")
    row("name: no such function", call, "neutronlike.operations.none")


def behaviour():
    row("state persists", lambda: (operations.remember("a", [1]), operations.recall("a")))
    row("nested calls of one context", operations.nested, 1)
    row("partial of an entrypoint", operations.half)
    row("retried by tenacity", operations.retried, "retried")
    row("retries happen in the daemon", operations.recall, "retried")
    row("an entrypoint that forks", operations.fork_and_wait, 5)
    row("timer", lambda: (operations.start_timer(), operations.wait_for_timer()))
    row("child outlives its call", child_outlives)
    row("timeout of a call", operations.wait, _wrap_timeout=0.1)
    row("timeout of an entrypoint", operations.wait_briefly)
    operations.release()
    row("calls run at once", at_once)
    row("calls share a process", lambda: len({operations.identity() for _ in range(5)}))
    row("a call to another context", operations.identity_of_another_context)
    row("status", status)
    row("client_mode is False: here", in_this_process)
    row("a second start", lambda: neutronlike.default.start(method()))


def child_outlives():
    pid = operations.leave_child()
    operations.echo(1)
    alive = os.path.exists(f"/proc/{pid}")
    if alive:
        operations.evaluate(f"os.kill({pid}, 9)")
        operations.evaluate(f"os.waitpid({pid}, 0)[0] > 0")
    return alive


def at_once():
    """Each of two calls waits until the other has come."""
    met = []
    threads = [
        threading.Thread(target=lambda: met.append(operations.meet())) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sorted(met)


def status():
    own, child, directory = operations.status()
    return own, child, directory


def in_this_process():
    neutronlike.default.set_client_mode(False)
    try:
        return operations.echo([1]), operations.identity() == os.getpid()
    finally:
        neutronlike.default.set_client_mode(True)


def method():
    return priv_context.Method[METHOD.upper()]


def declaring():
    context = priv_context.PrivContext
    row("no capabilities given", context, "x")
    row("no capabilities kept", context, "x", cfg_section="none", capabilities=[])
    row("no such capability", context, "x", cfg_section="bad", capabilities=["CAP_FOO"])
    own = context(__name__, cfg_section="own", capabilities=["CAP_CHOWN", 3])
    row("capabilities by name", lambda: own.conf.capabilities)
    context(__name__, cfg_section="own", capabilities=[5], logger_name="mine")
    row("two contexts, one section", lambda: (own.conf.capabilities, own.conf.logger_name))
    row("str of a context", str, own)

    def function(value):
        """Have words of its own."""
        return value

    call = own.entrypoint(function)
    row("entrypoint: type", lambda: type(call).__name__)
    row("entrypoint: attribute", lambda: vars(call)["privsep_entrypoint"] is own)
    row("entrypoint: function", lambda: (call.func == own._wrap, call.args[0] is function))
    row("is_entrypoint", lambda: (own.is_entrypoint(call), own.is_entrypoint(function)))
    wrapper = functools.wraps(call)(lambda *args: call(*args))
    row("is_entrypoint: what wraps one", lambda: own.is_entrypoint(wrapper))
    row("entrypoint twice", own.entrypoint, wrapper)
    other = context("elsewhere", cfg_section="elsewhere", capabilities=[])
    row("outside of the prefix", other.entrypoint, function)
    near = context("__mai", cfg_section="near", capabilities=[])
    row("begins as the prefix does", near.entrypoint, function)
    timed = own.entrypoint_with_timeout(3)(function)
    row("with timeout: name", lambda: (timed.__name__, timed.__doc__))
    row("with timeout: attribute", lambda: timed.privsep_entrypoint is own)
    own.client_mode = False
    row("client_mode is a plain attribute", call, [1])
    row("no pypath", own.helper_command, "/s")
    wrong = context("x", cfg_section="wrong", pypath="os.path", capabilities=[])
    row("a pypath of something else", wrong.helper_command, "/s")
    row("no such method", own.start, 7)
    row("stop before start", own.stop)
    row("methods", lambda: [(each.name, each.value) for each in priv_context.Method])
    row("attributes", lambda: [
        name for name in ("prefix", "cfg_section", "pypath", "channel", "client_mode",
                          "start_lock", "timeout", "conf") if not hasattr(own, name)])


def options():
    for section, found in priv_context._list_opts():
        ROWS["options: section"] = str(section)
        seven = ("user", "group", "capabilities", "thread_pool_size", "helper_command",
                 "logger_name", "log_daemon_traceback")
        by_name = {each.name: each for each in found}
        for name in seven:
            each = by_name[name]
            row(f"options: {name}", lambda each=each: (each.default, each.sample_default is None))
    context = priv_context.PrivContext("x", cfg_section="parsed", capabilities=[1])
    for text in ("CAP_CHOWN, 3", "12", "99", "-1", "", "cap_chown", "net_admin", "0x3",
                 "CAP_CHOWN CAP_KILL", '"CAP_CHOWN,CAP_KILL"', "[CAP_CHOWN]", "12,,3"):
        row(f"option capabilities = {text}", parsed, context, "capabilities", text)
    for text in ("1", "0", "-3", "x", "64"):
        row(f"option thread_pool_size = {text}", parsed, context, "thread_pool_size", text)
    for text in ("true", "1", "off", "maybe"):
        row(f"option log_daemon_traceback = {text}", parsed, context, "log_daemon_traceback", text)
    for name in ("user", "group", "helper_command", "logger_name"):
        row(f"option {name}", parsed, context, name, "a b")


def parsed(context, name, text):
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
        file.write(f"[{context.cfg_section}]\n{name} = {text}\n")
        file.flush()
        set_up(["--config-file", file.name])
        try:
            return context.conf[name]
        finally:
            set_up([])


def commands(directory):
    context = neutronlike.default
    set_up([])
    row("command", context.helper_command, "/sock")
    file, other = f"{directory}/a.conf", f"{directory}/b.conf"
    for path in (file, other):
        with open(path, "w") as opened:
            opened.write("[DEFAULT]\n")
    inner = f"{directory}/d"
    os.mkdir(inner)

    def shown(call):
        return [word.replace(directory, "D") for word in call()]

    set_up(["--config-file", file, "--config-dir", inner, "--config-file", other])
    row("command: files and directories", shown, lambda: context.helper_command("/sock"))
    priv_context.init(root_helper=["doas", "-n"])
    row("command: init()", shown, lambda: context.helper_command("/sock"))
    cfg.CONF.set_override("helper_command", "sudo 'a b' rw.conf privsep-helper",
                          group="neutronlike")
    row("command: helper_command", shown, lambda: context.helper_command("/sock"))
    cfg.CONF.clear_override("helper_command", group="neutronlike")
    set_up([])
    priv_context.init(root_helper=HELPER)


def set_up(arguments):
    cfg.CONF(arguments, project="neutronlike")


def modules():
    def names_of(module, wanted):
        return sorted(set(wanted.split()).difference(dir(module)))

    row("names of priv_context", names_of, priv_context, "PrivContext Method init _list_opts")
    row("names of daemon", names_of, daemon, """Daemon FailedToDropPrivileges ProtocolError
        Message StdioFd ForkingClientChannel RootwrapClientChannel _ClientChannel
        PrivsepLogHandler fdopen replace_logging set_cloexec setuid setgid helper_main""")
    row("names of daemon: PrivsepTimeout", names_of, daemon, "PrivsepTimeout")
    row("names of comm", names_of, comm, """PrivsepTimeout Message Serializer Deserializer
        ClientChannel ServerChannel Future""")
    row("Message", lambda: [(m.name, m.value) for m in daemon.Message])
    row("Message of comm", lambda: daemon.Message is comm.Message)
    row("StdioFd", lambda: [(m.name, m.value) for m in daemon.StdioFd])
    row("capabilities", lambda: sorted(
        (name, value) for name, value in vars(capabilities).items() if name[:4] == "CAP_"))
    row("Capabilities", lambda: [(m.name, m.value) for m in capabilities.Capabilities])
    row("CAPS_BYNAME", lambda: sorted(capabilities.CAPS_BYNAME.items()))
    row("CAPS_BYVALUE", lambda: sorted(capabilities.CAPS_BYVALUE.items()))
    row("get_caps", capabilities.get_caps)
    row("drop_all_caps_except: more than permitted", in_child, drop_too_much)
    for arguments in (([0, 1], [0, 1], [0]), ([], [], [])):
        row(f"drop_all_caps_except{arguments}", in_child,
            lambda arguments=arguments: (
                capabilities.drop_all_caps_except(*arguments), capabilities.get_caps()))
    row("set_keepcaps", in_child, lambda: (
        capabilities.set_keepcaps(True), capabilities.set_keepcaps(False)))


def drop_too_much():
    try:
        capabilities.drop_all_caps_except([0, 1], [0], [])
    except OSError as error:
        return error.errno


def in_child(call):
    """Return what `call` came to in a process of its own."""
    reader, writer = os.pipe()
    if os.fork() == 0:
        try:
            text = say(call())
        except BaseException as error:
            text = raised(error)
        os.write(writer, text.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    os.wait()
    return text


def channels():
    import socket

    ours, theirs = socket.socketpair()
    comm.Serializer(ours).send(("x", {"a": [1]}))
    row("Deserializer", lambda: next(iter(comm.Deserializer(theirs))))
    ours, theirs = socket.socketpair()
    server = comm.ServerChannel(theirs)

    def serve():
        for identity, message in server:
            server.send((identity, (comm.Message.RET.value, message)))
        theirs.close()

    threading.Thread(target=serve, daemon=True).start()
    client = comm.ClientChannel(ours)
    row("ClientChannel", client.send_recv, (1, ["a"]))
    row("ClientChannel: what cannot cross", client.send_recv, {1})
    client.close()
    lock = threading.Lock()
    with lock:
        row("Future: a timeout", comm.Future(lock, timeout=0.05).result)
        future = comm.Future(lock)

        def set_exception():
            with lock:
                future.set_exception(KeyError("k"))

        threading.Timer(0.05, set_exception).start()
        row("Future: an exception", future.result)


def functions():
    """What daemon has beside its classes."""
    reader, writer = os.pipe()
    os.set_inheritable(reader, True)
    row("set_cloexec", lambda: (daemon.set_cloexec(reader), os.get_inheritable(reader)))
    row("set_cloexec: no descriptor", daemon.set_cloexec, 99999)
    with daemon.fdopen(writer, "w") as file:
        file.write("text")
    row("fdopen", lambda: daemon.fdopen(reader, "rb", 0).read())
    for name in ("setuid", "setgid"):
        function = getattr(daemon, name)
        ids = {"setuid": "os.getresuid", "setgid": "os.getresgid"}[name]
        for value in (65534, "65534", "daemon"):
            row(f"{name}: {value!r}", in_child, lambda f=function, v=value, i=ids: (
                f(v), eval(i)()))
        row(f"{name}: nobody has that name", lambda f=function: f("no-such-name"))
        row(f"{name}: it is not allowed", in_child, lambda f=function: (
            os.setresuid(65534, 65534, 65534), f(1)))
    row("log handler", in_child, lambda: sent_by(daemon.PrivsepLogHandler))
    row("log handler: processName", in_child, lambda: sent_by(
        daemon.PrivsepLogHandler, processName="named"))
    row("replace_logging", in_child, replaced_logging)


class Sent:
    """A channel that keeps what is sent."""

    running = True

    def __init__(self):
        self.messages = []

    def send(self, message):
        self.messages.append(message)

    def remote_call(self, *call):
        return call


def sent_by(handler, **arguments):
    sent = Sent()
    logger = logging.getLogger("handled")
    logger.addHandler(handler(sent, **arguments))
    logger.warning("of %d", 1)
    try:
        raise ValueError("none")
    except ValueError:
        logger.exception("failed")
    return [
        (identity, int(kind), [fields[name] for name in (
            "name", "msg", "args", "levelname", "exc_info", "processName")],
         (fields["exc_text"] or "").splitlines()[-1:])
        for identity, (kind, fields) in sent.messages
    ]


def replaced_logging():
    sent = Sent()
    handler = daemon.PrivsepLogHandler(sent)
    before = logging.getLogger("has.one")
    before.addHandler(logging.NullHandler())
    before.propagate = False
    daemon.replace_logging(handler)
    before.error("not seen")
    logging.getLogger("has.none").error("replaced")
    return logging.root.handlers == [handler], before.handlers, len(sent.messages)


def what_is_sent():
    context = priv_context.PrivContext(
        __name__, cfg_section="sent", capabilities=[], timeout=7)
    context.channel = Sent()

    def function(*arguments, **named):
        """Be never called."""

    call = context.entrypoint(function)
    row("sent: arguments", call, 1, [2], a="b")
    row("sent: _wrap_timeout", call, _wrap_timeout=2)
    row("sent: entrypoint_with_timeout", context.entrypoint_with_timeout(3)(function), 1)


def served_by_hand():
    """A program that runs a Daemon itself."""
    import socket

    ours, theirs = socket.socketpair()
    context = priv_context.PrivContext("neutronlike", cfg_section="by_hand",
                                       pypath="neutronlike.default", capabilities=[])
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            daemon.Daemon(comm.ServerChannel(theirs), neutronlike.default).loop()
        finally:
            os._exit(0)  # which closes the socket
    theirs.close()
    client = comm.ClientChannel(ours)
    row("Daemon.loop: PING", client.send_recv, (comm.Message.PING.value,))
    name = "neutronlike.operations.echo"
    call = (comm.Message.CALL.value, name, ([1],), {})
    row("Daemon.loop: CALL", client.send_recv, call)
    client.close()
    os.waitpid(pid, 0)
    del context
    run_by_hand()


def run_by_hand():
    """A program whose Daemon gives up what its context does not need."""
    import socket

    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        ours.close()
        try:
            daemon.Daemon(comm.ServerChannel(theirs), neutronlike.default).run()
        finally:
            os._exit(0)
    theirs.close()
    client = comm.ClientChannel(ours)
    name = "neutronlike.operations.status"

    def status():
        call = (comm.Message.CALL.value, name, (), {})
        _, (own, _, directory) = client.send_recv(call)
        return [own[each] for each in ("Uid", "Gid", "CapPrm", "CapEff")], directory

    row("Daemon.run", status)
    client.close()
    os.waitpid(pid, 0)


def endings():
    def end():
        try:
            operations.end(3)
        except OSError as error:
            return isinstance(error, OSError)

    row("the daemon ends within a call: OSError", end)
    if METHOD == "rootwrap":
        row("a dead daemon is started again", operations.echo, "again")
    row("stop", lambda: (neutronlike.default.stop(), neutronlike.default.channel))
    cfg.CONF.set_override("helper_command", "false", group="neutronlike")
    row("the helper fails", operations.echo, 1)
    cfg.CONF.set_override("helper_command", "/nonexistent", group="neutronlike")
    row("there is no helper", operations.echo, 1)
    cfg.CONF.clear_override("helper_command", group="neutronlike")


def replaced_channel():
    """A test replaces the channel's class, as nova's do."""

    class Unhelpful(daemon._ClientChannel):
        def __init__(self, context):
            raise Exception(f"no helper for {context}")

    kept, daemon.RootwrapClientChannel = daemon.RootwrapClientChannel, Unhelpful
    context = priv_context.PrivContext(__name__, cfg_section="replaced", capabilities=[])
    row("RootwrapClientChannel is replaced", context.start)
    daemon.RootwrapClientChannel = kept


def fixture():
    from oslo_privsep.test import fixture as public
    from oslo_privsep.tests import fixture as module

    row("fixture: both names", lambda: [
        each.UnprivilegedPrivsepFixture.__name__ for each in (public, module)])

    context = priv_context.PrivContext(
        "neutronlike", capabilities=[0])
    with module.UnprivilegedPrivsepFixture(context, {"thread_pool_size": 1}) as started:
        del started
        function = context.channel.remote_call
        row("fixture: started", lambda: (context.channel is not None, list(context.conf.capabilities)))
        del function


PATH = f"PATH={sys.prefix}/bin:/usr/sbin:/usr/bin:/sbin:/bin"
HELPER = ["sudo", "-n", "env", PATH]


def main():
    set_up([])
    logging.root.setLevel(logging.INFO)
    priv_context.init(root_helper=HELPER)
    with tempfile.TemporaryDirectory() as directory:
        if METHOD == "fork":
            declaring()
            options()
            commands(directory)
            modules()
            channels()
            functions()
            what_is_sent()
            served_by_hand()
            replaced_channel()
            fixture()
        configured = f"{directory}/neutronlike.conf"
        with open(configured, "w") as file:
            file.write("[neutronlike]\nlog_daemon_traceback = true\n"
                       "thread_pool_size = 8\n")
        set_up(["--config-file", configured])
        neutronlike.default.start(method())
        for part in (values, exceptions, foreign_exceptions, logs, tracebacks, names,
                     behaviour, endings):
            part()
    print(json.dumps(ROWS))


if __name__ == "__main__":
    main()
