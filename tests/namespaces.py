"""Hosts that are network namespaces of this machine, each with an address of its own. They need root and iproute2."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest

_numbers = itertools.count()


@dataclass(frozen=True)
class Host:
    """A namespace by its name. address: empty if it is connected with nothing."""

    name: str
    address: str = ""

    @property
    def inside(self) -> list[str]:
        """What to put in front of a command so that it runs there. The command has mounts of its own, too."""
        return ["ip", "netns", "exec", self.name]

    def cut_off(self) -> None:
        """Unplug its cable: what is sent to it, or by it, is lost without an error."""
        ip("-n", self.name, "link", "set", "eth0", "down")

    def plug_in(self) -> None:
        """Plug its cable in again, with the way to everywhere."""
        ip("-n", self.name, "link", "set", "eth0", "up")
        ip("-n", self.name, "route", "replace", "default", "via", f"{self.address.rpartition('.')[0]}.1")


def ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


@contextmanager
def host() -> Iterator[Host]:
    """A host that is connected with nothing. Skips the test where none can be made."""
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("other hosts are played by network namespaces, which need root and the program ip (iproute2)")
    made = Host(f"alray{os.getpid()}n{next(_numbers)}")
    try:
        ip("netns", "add", made.name)
    except OSError as error:
        pytest.skip(f"no network namespace can be made here: {error}")
    try:
        ip("-n", made.name, "link", "set", "lo", "up")
        yield made
    finally:
        ip("netns", "del", made.name)  # its cable goes with it


@contextmanager
def network(count: int, net: str = "10.231.77", with_this: bool = True) -> Iterator[list[Host]]:
    """So many hosts on a switch. with_this: this machine, too, with the address <net>.1, as the way to everywhere; else
    nobody but the hosts can reach them."""
    with ExitStack() as stack:
        hosts = [stack.enter_context(host()) for _ in range(count)]
        switch = f"al{os.getpid()}s{next(_numbers)}"  # the kernel allows 15 letters
        ip("link", "add", switch, "type", "bridge")
        stack.callback(ip, "link", "del", switch)
        if with_this:
            ip("addr", "add", f"{net}.1/24", "dev", switch)
        ip("link", "set", switch, "up")
        found = []
        for number, made in enumerate(hosts):
            cable = f"al{os.getpid()}c{next(_numbers)}"
            ip("link", "add", cable, "type", "veth", "peer", "name", "eth0", "netns", made.name)
            ip("link", "set", cable, "master", switch, "up")
            found.append(Host(made.name, f"{net}.{number + 2}"))
            ip("-n", made.name, "addr", "add", f"{found[-1].address}/24", "dev", "eth0")
            ip("-n", made.name, "link", "set", "eth0", "up")
            if with_this:
                ip("-n", made.name, "route", "add", "default", "via", f"{net}.1")
        yield found
