"""No form of ip runs a command."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from rootwrap_attacks import is_refused, wrapped

if TYPE_CHECKING:
    from wrapping import Wrapped

__all__ = ["wrapped"]


@pytest.mark.parametrize(
    "words",
    [
        "netns exec one sh",
        "netns exe one sh",
        "netns ex one sh",
        "netns e one sh",
        "netn exec one sh",
        "net exec one sh",
        "net e one sh",
        "netns exec one @dir/evil/show",
        "-o netns exec one sh",
        "-oneline netns exec one sh",
        "-4 netns exec one sh",
        "-6 netns e one sh",
        "-0 netns exec one sh",
        "-B netns exec one sh",
        "-M netns exec one sh",
        "-s -s netns exec one sh",
        "-d netns exec one sh",
        "-r netns exec one sh",
        "-t netns exec one sh",
        "-ts netns exec one sh",
        "-j -p netns exec one sh",
        "-br netns exec one sh",
        "-h netns exec one sh",
        "-iec netns exec one sh",
        "-N netns exec one sh",
        "-c netns exec one sh",
        "-color netns exec one sh",
        "-color=never netns exec one sh",
        "-c=always netns e one sh",
        "-echo netns exec one sh",
        "-f inet netns exec one sh",
        "-family inet netns exec one sh",
        "-fam inet netns exec one sh",
        "-f link netns exec one sh",
        "-l 5 netns exec one sh",
        "-loops 5 netns exec one sh",
        "-rc 1024 netns exec one sh",
        "-rcvbuf 1024 netns exec one sh",
        "-n two netns exec one sh",
        "-netns two netns exec one sh",
        "-net two net e one sh",
        "-n link netns exec one sh",
        "-f netns netns exec one sh",
        "-- netns exec one sh",
        "-o -- netns exec one sh",
        "--oneline netns exec one sh",
        "--o netns exec one sh",
        "--family inet netns exec one sh",
        "--n two netns exec one sh",
        "---o netns exec one sh",
        "- link netns exec one sh",
        "- 5 link",
        "-a netns exec sh",
        "-all netns exec sh",
        "-al netns exec sh",
        "--all netns exec sh",
        "-all link",
        "-b /x",
        "-b link",  # a file of that name
        "-batch link",
        "-br -b link",
        "-family=inet inet link",
        "-s=1 link",
        "-b -",
        "-ba /x",
        "-bat /x",
        "-batch /x",
        "-batch -",
        "--batch /x",
        "-force -batch /x",
        "-fo -b /x",
        "-force link",
        "-o -b /x",
        "-n one -b /x",
        "vrf exec red sh",
        "vrf exe red sh",
        "vrf e red sh",
        "vr exec red sh",
        "v e red sh",
        "-o vrf exec red sh",
        "-n one vrf exec red sh",
        "-c=never v e red sh",
        "-unknown netns exec one sh",
        "-x link",
        "-color=never=x netns exec one sh",
        "-family=inet netns exec one sh",
        "-netns",
        "-n",
        "-f",
        "-n ../../proc/1/ns/net link",
        "-n .. link",
        "-n -x link",
        "NETNS exec one sh",
        "Netns exec one sh",
        "unknown",
        "netnsx exec one sh",
        "net\nns exec one sh",
        "netns\n exec one sh",
        "netns EXEC one sh",
        "netns exec",
        "netns exec one",
        "netns unknown",
        "netns listx",
        "netns add ../x",
        "netns add a/b",
        "netns delete ..",
        "netns add -x",
        "vrf unknown",
        "vrf execx",
    ],
)
def test_ip_runs_no_command(wrapped: Wrapped, words: str) -> None:
    # A word with a newline is one word.
    is_refused(wrapped, "ip", *words.split(" "))


@pytest.mark.parametrize(
    "words", [["", "exec", "one", "sh"], ["netns", "", "one", "sh"], ["-n", "", "link"]]
)
def test_ip_has_no_empty_words(wrapped: Wrapped, words: list[str]) -> None:
    is_refused(wrapped, "ip", *words)


@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
@pytest.mark.parametrize(
    "option", ["-o", "-c", "-s", "-h", "-t", "-d", "-j", "-0", "-B"]
)
def test_ip_reads_an_option_as_we_do(option: str) -> None:
    """A word after it is the object, and not the option's."""
    done = subprocess.run(
        ["ip", option, "no-such-object", "netns"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert '"no-such-object"' in done.stderr


@pytest.mark.skipif(shutil.which("ip") is None, reason="iproute2 is not installed")
@pytest.mark.parametrize("option", ["-f", "-fam", "-l", "-rc", "-n", "-netns", "-net"])
def test_ip_takes_a_word_for_an_option_as_we_do(option: str) -> None:
    done = subprocess.run(
        ["ip", option, "no-such-object", "link"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'Object "no-such-object"' not in done.stderr
