# SPDX-License-Identifier: MIT
"""Fixtures of the end-to-end tests. Several files run at once, one in each process of pytest-xdist, which
has a loopback of its own so that ports cannot meet. A module gets one whole system; whoever breaks it on purpose
builds it up again. On a failure every log is printed; at the end every daemon must have ended with
status 0 (a sanitizer's finding gives another) and nothing may be left on the host."""
import os
import pathlib
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))

from tests.lab import System, net  # noqa: E402

_failed_in = set()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if outcome.get_result().failed:
        _failed_in.add(item.nodeid.split("::")[0])


def pytest_configure(config):
    if os.geteuid() != 0:
        raise pytest.UsageError("the end-to-end tests make network namespaces: run them as root")
    if hasattr(config, "workerinput"):
        net.leave_host()


def _finish(s, request):
    module = request.node.nodeid.split("::")[0]
    if module in _failed_in:
        s.dump_logs()
    complaints = s.close() + _other_backends(s)
    assert not complaints, "\n".join(complaints)


def _other_backends(s):
    """Where KM_BACKEND names what `wireguard = auto` must find: the wardens that fell back."""
    want = os.environ.get("KM_BACKEND")
    return [f"{name}: {line}" for name, p in s.started for line in p.lines
            if want and not s.backends_vary and "warden started" in line and f"backend={want} " not in line
            and "asked for" not in line]


@pytest.fixture(scope="module")
def system(request):
    """Control, gateway, agent, target: all up, no tunnel yet."""
    s = System("kmt")
    try:
        s.up()
    except BaseException:
        s.dump_logs()
        s.close()
        raise
    yield s
    _finish(s, request)


@pytest.fixture(scope="module")
def bare(request):
    """A system for all tests of a module, nothing started."""
    s = System("kmt")
    yield s
    _finish(s, request)


@pytest.fixture(scope="module")
def served(system):
    """The system with its tunnel hello.demo.test, seen to answer."""
    system.tunnel = system.create_tunnel()
    system.wait_served()
    return system


@pytest.fixture
def fresh(request):
    """A system of the test's own, nothing started."""
    s = System("kmt")
    yield s
    _finish(s, request)
