"""Ports that a job's servers take: its own, and none that is in use."""

import socket

import pytest

from harness import ports
from harness.ports import PORTS, PortError, free_port


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1234567")


@pytest.mark.parametrize("host", ["127.0.0.1", ""])
def test_a_port_that_is_taken_is_passed_by(job: None, host: str) -> None:
    port = free_port(host)
    assert port in PORTS
    assert free_port(host) == port
    with socket.socket() as other:
        other.bind((host, port))
        other.listen()
        assert free_port(host) > port
    assert free_port(host, attempt=1) > port


def test_outside_of_a_job_it_is_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert len({free_port() for _ in range(20)}) > 1
    monkeypatch.setenv("SLURM_JOB_ID", "none")
    assert free_port() in PORTS


def test_without_a_free_port_it_says_so(job: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        monkeypatch.setattr(ports, "PORTS", range(port, port + 1))
        with pytest.raises(PortError, match=rf"no port of 127\.0\.0\.1 from {port} to {port} is free"):
            free_port()
