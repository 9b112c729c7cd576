"""A real SLURM cluster of virtual nodes on this machine: no systemd, no cgroups, no munge, whoever starts it.

Each node is a slurmd with a port of its own. GPUs are character devices that every machine has. Accounting needs
slurmdbd and mariadbd, and is left out where they are missing.
"""

import getpass
import os
import platform
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

NODES, CPUS, GPUS = 3, 4, 2

_MYSQL_TABLES = Path("/usr/share/mysql/mysql_system_tables.sql")

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/none
CredType=cred/none
# The least that is allowed: a job that is put back waits for so long, by default 121 s.
AuthInfo=cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool/%n
SlurmctldPidFile={root}/run/slurmctld.pid
SlurmdPidFile={root}/run/%n.pid
SlurmctldLogFile={root}/log/slurmctld.log
SlurmdLogFile={root}/log/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
# Without it one job takes all memory of a node.
DefMemPerCPU=100
SlurmdParameters=config_overrides
SlurmctldParameters=preempt_send_user_signal
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SchedulerType=sched/backfill
# Jobs begin after half a second, not after three.
SchedulerParameters=batch_sched_delay=0,sched_interval=2,sched_min_interval=10000,bf_interval=1
KillWait=3
CompleteWait=0
MinJobAge=3600
SlurmctldTimeout=10
SlurmdTimeout=10
MessageTimeout=10
ReturnToService=2
JobRequeue=1
MaxArraySize=1001
GresTypes=gpu
{accounting}
NodeName=n[1-{nodes}] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs={cpus} RealMemory=4000 \
Gres=gpu:fake:{gpus} State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
PartitionName=low Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=5
"""

_ACCOUNTING = """\
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={port}
AccountingStorageEnforce=associations,limits,qos
"""

_DBD = """\
AuthType=auth/none
DbdHost=localhost
DbdAddr=127.0.0.1
DbdPort={port}
SlurmUser={user}
LogFile={root}/log/slurmdbd.log
PidFile={root}/run/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=root
StorageLoc=slurm_acct_db
"""


def missing() -> str:
    """Why no cluster can be booted here; an empty text where one can."""
    absent = [name for name in ("slurmctld", "slurmd", "sbatch") if _which(name) is None]
    return f"no {', no '.join(absent)}: apt-get install slurmctld slurmd slurm-client" if absent else ""


def accounting() -> bool:
    """Whether sacct will work."""
    return all(_which(name) for name in ("slurmdbd", "mariadbd")) and _MYSQL_TABLES.exists()


@contextmanager
def booted() -> Iterator["Cluster"]:
    """A cluster, for as long as the block lasts."""
    cluster = Cluster(Path(tempfile.mkdtemp(prefix="slurm", dir="/tmp")))  # unix sockets allow 107 bytes of path
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(cluster.root, ignore_errors=True)


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


class Cluster:
    """The daemons."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.conf = root / "slurm.conf"
        """What SLURM_CONF has to name to SLURM's commands."""
        self.port = _free_ports(3 + NODES)
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        """By name: slurmctld, and the slurmd of each node by the node's."""
        self.environment = {**os.environ, "SLURM_CONF": str(self.conf)}

    def start(self) -> None:
        """Start everything, and wait until all nodes are idle."""
        for name in ("state", "log", "run", *(f"spool/n{n + 1}" for n in range(NODES))):
            (self.root / name).mkdir(parents=True)
        self._write()
        if accounting():
            self._start_database()
        self.launch("slurmctld")
        for number in range(NODES):
            self.launch(f"n{number + 1}")
        self._wait("all nodes are idle", lambda: self._said("sinfo", "-h", "-N", "-p", "main", "-t", "idle") == NODES)
        if accounting():  # limits are enforced, so that a user needs an association
            self._run("sacctmgr", "-i", "add", "account", "test")
            self._run("sacctmgr", "-i", "add", "user", getpass.getuser(), "account=test", "DefaultAccount=test")
        self._wait("a first job", lambda: self._run("srun", "-n1", "--immediate=5", "true") == 0)

    def launch(self, name: str) -> None:
        """Start slurmctld, or the slurmd of a node."""
        self._launch(name, *(("slurmctld", "-D") if name == "slurmctld" else ("slurmd", "-D", "-N", name)))

    def end(self, name: str, number: signal.Signals) -> None:
        """End one of them by a signal; jobs go on without."""
        daemon = self.daemons.pop(name)
        daemon.send_signal(number)
        daemon.wait(30)

    def crash(self, node: str) -> None:
        """Let a node fall over: its slurmd, and all that runs there."""
        here = [process for process in processes(self.conf) if _node(process) == node]
        self.end(node, signal.SIGKILL)
        for process in (*steps(here), *here):  # a step that outlived its job would tell how it ended
            with suppress(psutil.Error):
                process.kill()

    def stop(self) -> None:
        """End all jobs and daemons; a slurmstepd would outlive its slurmd."""
        if self.daemons:
            with suppress(TimeoutError, subprocess.TimeoutExpired):
                self._run("scancel", "--full", "-u", getpass.getuser())
                self._wait("no job is left", lambda: self._said("squeue", "-h") == 0, 10)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in processes(self.conf):
            with suppress(psutil.Error):
                process.kill()

    def _write(self) -> None:
        user, host = getpass.getuser(), platform.node().partition(".")[0]
        asked = _ACCOUNTING.format(port=self.port + 1) if accounting() else ""
        first = self.port + 3
        conf = _CONF.format(
            host=host,
            user=user,
            root=self.root,
            port=self.port,
            nodes=NODES,
            cpus=CPUS,
            gpus=GPUS,
            first=first,
            last=first + NODES - 1,
            accounting=asked,
        )
        (self.root / "slurm.conf").write_text(conf)
        devices = ",".join(["/dev/null", "/dev/zero", "/dev/full", "/dev/random"][:GPUS])
        (self.root / "gres.conf").write_text(f"NodeName=n[1-{NODES}] Name=gpu Type=fake File={devices}\n")
        dbd = self.root / "slurmdbd.conf"
        dbd.write_text(_DBD.format(port=self.port + 1, database=self.port + 2, user=user, root=self.root))
        dbd.chmod(0o600)

    def _start_database(self) -> None:
        """MariaDB on loopback without grants, for tests only."""
        data = self.root / "database"
        data.mkdir()
        options = ["--no-defaults", f"--datadir={data}", "--skip-log-bin", "--innodb-flush-method=nosync"]
        options += ["--user=root"] if os.getuid() == 0 else []
        tables = f"CREATE DATABASE IF NOT EXISTS mysql;\nUSE mysql;\n{_MYSQL_TABLES.read_text()}"
        command = [_which("mariadbd") or "mariadbd", *options, "--bootstrap"]
        subprocess.run(command, input=tables.encode(), capture_output=True, check=True)
        port = self.port + 2
        settings = ["--skip-grant-tables", "--bind-address=127.0.0.1", f"--port={port}"]
        settings += [f"--socket={self.root}/run/sql", "--innodb-lock-wait-timeout=900"]
        self._launch("mariadbd", "mariadbd", *options, *settings)
        self._wait("the database", lambda: _open(port))
        self._launch("slurmdbd", "slurmdbd", "-D")
        self._wait("slurmdbd", lambda: _open(self.port + 1))

    def _launch(self, name: str, program: str, *arguments: str) -> None:
        with (self.root / "log" / f"{name}.out").open("ab") as output:
            self.daemons[name] = subprocess.Popen(
                [_which(program) or program, *arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                process_group=0,
            )

    def _run(self, *command: str) -> int:
        return subprocess.run(command, env=self.environment, capture_output=True, check=False, timeout=30).returncode

    def _said(self, *command: str) -> int:
        """Lines that a command prints."""
        ended = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False, timeout=30)
        return len(ended.stdout.splitlines()) if ended.returncode == 0 else -1

    def _wait(self, what: str, condition: Callable[[], bool], seconds: float = 40) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(_tail(path) for path in sorted((self.root / "log").iterdir()))
                raise TimeoutError(f"the test cluster: {what}: not after {seconds} s\n{logs}")
            time.sleep(0.1)


def processes(conf: Path) -> Sequence[psutil.Process]:
    """Processes of a cluster's jobs."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environment = process.environ()
            if environment.get("SLURM_CONF") == str(conf) and "SLURM_JOB_ID" in environment:
                found.append(process)
    return found


def steps(jobs: Sequence[psutil.Process]) -> Sequence[psutil.Process]:
    """The slurmstepd processes above those of jobs."""
    found: set[psutil.Process] = set()
    for process in jobs:
        with suppress(psutil.Error):
            found.update(above for above in process.parents() if above.name() == "slurmstepd")
    return sorted(found, key=lambda process: process.pid)


def _node(process: psutil.Process) -> str:
    """The node that a process of a job runs on."""
    try:
        return str(process.environ().get("SLURMD_NODENAME", ""))
    except psutil.Error:
        return ""


def _free_ports(count: int) -> int:
    """The first of so many ports in a row that nobody listens on."""
    start = 27200 + os.getpid() % 1000 * 10
    while any(_open(start + number) for number in range(count)):
        start += count
    return start


def _open(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tail(path: Path) -> str:
    return f"--- {path.name}\n" + "\n".join(path.read_text(errors="replace").splitlines()[-10:])


if __name__ == "__main__":
    with booted() as cluster:
        print(f"export SLURM_CONF={cluster.conf}", flush=True)
        signal.sigwait({signal.SIGINT, signal.SIGTERM})
