"""What a service sees of oslo.rootwrap: printed as JSON, a row each.

Run as root with the interpreter of either environment.
"""

import configparser
import json
import os
import subprocess
import sys
import tempfile

from oslo_rootwrap import cmd, filters, wrapper

ROWS: dict[str, str] = {}
SCRIPT = f"{sys.prefix}/bin/oslo-rootwrap"
DIRECTORIES = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]


def row(name, call, *args, **kwargs):
    try:
        value = call(*args, **kwargs)
        ROWS[name] = f"{type(value).__name__} {value!r}"
    except Exception as error:
        ROWS[name] = f"!! {type(error).__name__} {error.args!r}"
    ROWS[name] = ROWS[name].replace(sys.prefix, "PREFIX")


#: A filter, and commands that it may allow, separated by |.
FILTERS = {
    "CommandFilter /bin/ls root": "ls|ls -l /x|/bin/ls -l|/usr/bin/ls|lsx|xls|ls ''",
    "CommandFilter ls root": "ls|/bin/ls|/tmp/ls|ls a b c|cat",
    "RegExpFilter /bin/ls root ls -[la]+ /tmp/.*": (
        "ls -la /tmp/x|ls -l|ls -x /tmp/x|ls -l /tmp/x y|ls -l /var/tmp/x|/bin/ls -l /tmp/x"
    ),
    "RegExpFilter ls root ls foo|bar": "ls foo|ls bar|ls foox|ls xbar|ls fo",
    "RegExpFilter ls root (ls|dir) .*": "ls x|dir x|cat x|lsx x",
    "PathFilter /bin/chown root nova /var/lib": (
        "chown nova /var/lib/x|chown nova /var/lib|chown root /var/lib/x|"
        "chown nova /var/lib/../../etc|chown nova /var/lib-evil/x|chown nova relative|"
        "chown nova /etc/passwd|chown nova|chown nova /var/lib/x y"
    ),
    "PathFilter /bin/cp root pass /var/lib": "cp a /var/lib/b|cp '' /var/lib/b|cp a /b",
    "EnvFilter env root A= B= ls": (
        "env A=1 B=2 ls|A=1 B=2 ls|env B=2 A=1 ls -l|env A=1 ls|env A=1 B=2 cat|"
        "A=1 B=2 C=3 ls|env A= B= ls|ls"
    ),
    "EnvFilter env root A= ls -l": "env A=1 ls -l|env A=1 ls|env A=1 ls -x|A=x ls -l y",
    "ReadFileFilter /etc/hosts": "cat /etc/hosts|cat /etc/passwd|cat|cat /etc/hosts x",
    "KillFilter root /usr/bin/sleep -9 -HUP": (
        "kill -9 PID|kill -HUP PID|kill -TERM PID|kill PID|kill -9 1|kill -9 999999999|"
        "kill -9 x|kill -9 PID PID"
    ),
    "KillFilter root /usr/bin/sleep": "kill PID|kill -9 PID|kill 1",
    "KillFilter root sleep -9": "kill -9 PID|kill -9 1",
    "KillFilter root /bin/sleep -9": "kill -9 PID",
    "KillFilter root /usr/bin/cat -9": "kill -9 PID",
    "IpFilter ip root": (
        "ip a|ip link set eth0 up|ip netns list|ip netns add x|ip netns delete x|"
        "ip netns exec x ls|ip netns monitor|ip -s link|ip -4 route|ip netns|"
        "ip net exec x ls|ip -n x netns exec y ls|ip -batch f|ip -b f|ip vrf exec x ls|"
        "ip netns e x ls|ip -all netns exec ls|ip -s netns exec x ls|ip -o link|"
        "ip route add default via 10.0.0.1"
    ),
    "IpNetnsExecFilter ip root": (
        "ip netns exec x ls|ip netns exec x|ip netns list|ip netns exec|ip a|"
        "ip netns exec x ls -l|/sbin/ip netns exec x ls"
    ),
    "ChainingRegExpFilter nice root nice -n -?\\d+": (
        "nice -n 5 ls|nice -n -5 ls -l|nice -n x ls|nice -n 5|nice ls|nice|xnice -n 5 ls"
    ),
    "ChainingFilter nice root": "nice ls|nice",
}


def matches(pid):
    for text, commands in FILTERS.items():
        kind, *fields = text.split(" ")
        for command in commands.split("|"):
            words = [w.replace("PID", str(pid)).replace("''", "") for w in command.split(" ")]
            made = getattr(filters, kind)(*fields)
            row(f"{text} < {command}", judged, made, words, str(pid))
    for kind in ("CommandFilter /bin/ls root", "RegExpFilter ls root ls"):
        name, *fields = kind.split()
        row(f"match: {kind}: no words", lambda n=name, f=fields: getattr(filters, n)(*f).match([]))


def judged(made, words, pid):
    """Return whether a filter matches, the command, the variables, and the inner one."""
    if not made.match(words):
        return False
    command = [w.replace(pid, "PID") for w in made.get_command(words, exec_dirs=DIRECTORIES)]
    inner = made.exec_args(words) if hasattr(made, "exec_args") else None
    return command, environment(made, words), inner


def environment(made, words):
    found = made.get_environment(words)
    return None if found is None else {n: found.get(n) for n in ("A", "B", "C")}


def attributes():
    for text in FILTERS:
        kind, *fields = text.split(" ")
        made = getattr(filters, kind)(*fields)
        for name in ("name", "exec_path", "run_as", "args", "real_exec"):
            row(f"attribute: {text}: {name}", getattr, made, name)
    for path, dirs in (("/bin/ls", []), ("ls", ["/bin"]), ("ls", ["/nonexistent"]),
                       ("nonesuch", ["/bin"]), ("/nonesuch", [])):
        row(f"get_exec: {path} {dirs}",
            lambda p=path, d=dirs: filters.CommandFilter(p, "root").get_exec(exec_dirs=d))
    row("get_command: without directories", lambda: filters.CommandFilter("ls", "root").get_command(["ls"]))
    for names in (("CommandFilter", "ls", "root"), ("NoFilter", "x"), ("CommandFilter",)):
        row(f"build_filter: {names}", lambda n=names: type(wrapper.build_filter(*n)).__name__)


def configuration():
    for line in (
        "", "use_syslog=True", "use_syslog=0", "use_syslog=maybe", "use_syslog=on",
        "syslog_log_facility=local0", "syslog_log_facility=LOG_LOCAL0",
        "syslog_log_facility=x", "syslog_log_level=DEBUG", "syslog_log_level=x",
        "syslog_log_level=warning", "daemon_timeout=5", "daemon_timeout=x",
        "rlimit_nofile=5", "rlimit_nofile=x", "exec_dirs=/a,/b", "exec_dirs=/a%b:c;d",
    ):
        for name in ("filters_path", "use_syslog", "syslog_log_facility", "syslog_log_level",
                     "daemon_timeout", "rlimit_nofile", "exec_dirs"):
            if name != "exec_dirs" or "exec_dirs" in line:
                row(f"config {line}: {name}", configured, f"filters_path=/a,/b\n{line}", name)
    row("config: the default of exec_dirs is PATH", lambda: configured(
        "filters_path=/a", "exec_dirs") == os.environ["PATH"].split(":"))
    row("config: no filters_path", configured, "", "filters_path")


def configured(text, name):
    parser = configparser.RawConfigParser()
    parser.read_string(f"[DEFAULT]\n{text}\n")
    return getattr(wrapper.RootwrapConfig(parser), name)


POLICY = r"""
[Filters]
ls: CommandFilter, ls, root
# a comment
again: CommandFilter, false, root
again: CommandFilter, true, root
unknown: NoSuchFilter, x
missing: CommandFilter, /nonexistent/missing, root
sh: RegExpFilter, sh, root, sh, -c, exit [0-9]+
kill: RegExpFilter, sh, root, sh, -c, kill -[0-9]+ \$\$
id: CommandFilter, id, nobody
echo: RegExpFilter, echo, root, echo,
    [a-z]+
nice: ChainingRegExpFilter, nice, root, nice, -n, \d+
env: CommandFilter, env, root
cat: CommandFilter, cat, root
env2: EnvFilter, env, root, NAME=, printenv, NAME
path: PathFilter, stat, root, -c, pass, /usr/lib
ip: IpNetnsExecFilter, ip, root
"""
COMMANDS = """
ls /nonexistent-directory; true; false; missing; sh -c exit 0; sh -c exit 7
sh -c exit 99; sh -c kill -9 $$; sh -c kill -15 $$; id -un; echo abc; echo ABC; echo
nice -n 5 true; nice -n 5 false; nice -n 5 id -un; nice -n x true; NAME=x printenv NAME
env NAME=y printenv NAME; stat -c %F /usr/lib/x/..; nothing; privsep-helper --help-me
nice -n 5 nothing
"""


def one_shot():
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)
        policy = f"{directory}/filters.d"
        os.mkdir(policy)
        write(f"{policy}/a.filters", POLICY)
        write(f"{policy}/.hidden", "no filters")
        path = f"{directory}/rootwrap.conf"
        write(path, f"[DEFAULT]\nfilters_path = {policy},{directory}/none\n"
                    f"exec_dirs = {','.join(DIRECTORIES)}\n")
        lines = [c.strip() for line in COMMANDS.strip().splitlines() for c in line.split(";")]
        for line in lines:
            words = line.split(" ", 2) if line.startswith("sh -c") else line.split(" ")
            row(f"run: {line}", run, [path, *words])
        row("run: no command", run, [path])
        row("run: nothing", run, [])
        row("run: no such config", run, ["/nonexistent.conf", "ls"])
        row("run: input is passed", run, [path, "cat"], input="text")
        write(f"{directory}/bad.conf", "[DEFAULT]\n")
        row("run: no filters_path", run, [f"{directory}/bad.conf", "ls"])
        write(f"{directory}/bad2.conf", f"[DEFAULT]\nfilters_path={policy}\nuse_syslog=x\n")
        row("run: a bad value", run, [f"{directory}/bad2.conf", "ls"])
        os.environ["LEAKED"] = "1"
        row("run: the caller's variables", lambda: "LEAKED" in run([path, "env"])[1])
        library(policy)


def library(policy):
    """Filters as a library, as those who write tests of their filters use it."""
    found = wrapper.load_filters([policy, "/nonexistent"])
    row("load_filters", lambda: [(type(f).__name__, f.name, f.exec_path, f.run_as, f.args) for f in found])
    for line in ("ls -l", "nothing", "missing", "nice -n 5 ls", "nice -n 5 nothing", ""):
        fresh = wrapper.load_filters([policy])
        row(f"match_filter: {line}", lambda f=fresh, w=line.split(): wrapper.match_filter(f, w, DIRECTORIES).name)

    def start(words):
        process = wrapper.start_subprocess(found, words, DIRECTORIES, stdout=subprocess.PIPE)
        return process.communicate()[0], process.returncode

    row("start_subprocess", start, ["echo", "abc"])
    row("start_subprocess: another user", start, ["id", "-un"])
    row("start_subprocess: not allowed", lambda: start(["nothing"]))
    row("codes", lambda: (cmd.RC_UNAUTHORIZED, cmd.RC_NOCOMMAND, cmd.RC_BADCONFIG, cmd.RC_NOEXECFOUND, cmd.SIGNAL_BASE))


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def run(words, **options):
    done = subprocess.run([SCRIPT, *words], capture_output=True, text=True, **options)
    return done.returncode, done.stdout


def main():
    sleeper = subprocess.Popen(["/usr/bin/sleep", "1000"])
    try:
        matches(sleeper.pid)
    finally:
        sleeper.kill()
        sleeper.wait()
    attributes()
    configuration()
    one_shot()
    print(json.dumps(ROWS))


if __name__ == "__main__":
    main()
