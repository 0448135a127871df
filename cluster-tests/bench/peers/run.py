#!/usr/bin/env python3
"""The same order on PostgreSQL 15, on Redis 7 and on Agora, measured in turn in one run.

One order is: a key that must be new; one to three lines; for each SKU available >= quantity, or the whole order is
refused; available down, reserved up; the order's row, its lines, the key and one event of the feed; acknowledged only
when it is durable. See README.md in the folder above for what is compared and how.

Linux and root: packages come from Debian, PostgreSQL and Redis run as their own users. Every server listens on loopback
under a fresh password, keeps its data in a temporary directory, and is stopped and removed however the run ends.
"""

import argparse
import contextlib
import json
import os
import pwd
import re
import resource
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
PG_BIN = Path("/usr/lib/postgresql/15/bin")
PACKAGES = ["postgresql-15", "redis-server"]
GENERATOR = ROOT / "target/release/examples/redis_orders"
AGORA = "agora"
PEERS = ["postgres", "postgres+standby", "redis", "redis+replica"]
SKUS = {"hot": 1_000, "uniform": 10_000}
ACCOUNTS = 1_000
# More than a run can sell.
UNITS = 1_000_000_000
# Above lies the range the kernel gives to outgoing connections, of which a benchmark makes many.
PORTS = range(10_000, 32_000)
TICK_US = 1_000_000 / os.sysconf("SC_CLK_TCK")
START_TIMEOUT_S = 60
INSTALL_TIMEOUT_S = 900
BUILD_TIMEOUT_S = 3_600
# What a cell takes besides its warm-up and its measured time: servers started, goods made, servers stopped.
CELL_OVERHEAD_S = 12


class Failed(Exception):
    """What went wrong, for a person."""


# ---------------------------------------------------------------------------------------------- processes and their time


class Servers:
    """Everything that was started and is not yet stopped."""

    def __init__(self):
        self.running = []

    def start(self, command, log, env=None, user=None, death="KILL"):
        """Starts a process that dies with this one, even where this one has no time to say so."""
        prefix = ["setpriv", f"--pdeathsig={death}"]
        if user:
            prefix += [f"--reuid={user}", f"--regid={user}", "--init-groups"]
        with open(log, "ab") as out:
            process = subprocess.Popen(
                prefix + ["--"] + [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=env,
                start_new_session=True,
                cwd="/",
            )
        self.running.append((process, log, signal.Signals[f"SIG{death}"]))
        return process

    def stop(self, process):
        """Ends a process in the way it was said to end when it was started, and what is left of its group."""
        entry = next(entry for entry in self.running if entry[0] is process)
        if process.poll() is None:
            process.send_signal(entry[2])
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        self.running.remove(entry)

    def stop_all(self):
        for process, _, _ in reversed(list(self.running)):
            self.stop(process)

    def check(self):
        for process, log, _ in self.running:
            if process.poll() is not None:
                raise Failed(f"{process.args[-1]} ended with {process.returncode}:\n{tail(log)}")


def tail(path, lines=15):
    with contextlib.suppress(OSError):
        return "\n".join(Path(path).read_text(errors="replace").splitlines()[-lines:])
    return ""


def call(command, timeout_s, what, env=None, stdin=None):
    """Runs a command to its end and returns what it printed."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            env=env,
            cwd="/",
            check=False,
        )
    except FileNotFoundError as error:
        raise Failed(f"{what}: {error.filename} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{what}: not done within {timeout_s} s") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()[-15:]
        raise Failed(f"{what} failed with {done.returncode}:\n" + "\n".join(said))
    return done.stdout


def await_true(what, question, servers, timeout_s=START_TIMEOUT_S):
    """Asks until the answer is yes."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        servers.check()
        with contextlib.suppress(Failed, OSError):
            if question():
                return
        time.sleep(0.05)
    raise Failed(f"{what}: not so within {timeout_s} s")


def stat_of(pid):
    """Fields of /proc/<pid>/stat behind the name, which may hold anything."""
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def cpu_us(pids):
    """Processor time of these processes and all their children, living and dead, in microseconds."""
    wanted = set(pids)
    ticks = 0
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError, IndexError):
            fields = stat_of(name)
            if int(name) in wanted:
                ticks += sum(int(field) for field in fields[11:15])
            elif int(fields[1]) in wanted:
                ticks += sum(int(field) for field in fields[11:13])
    return ticks * TICK_US


def own_cpu_us(pid):
    return sum(int(field) for field in stat_of(pid)[11:13]) * TICK_US


def free_ports(count):
    """Ports nobody listens on."""
    found = []
    start = secrets.randbelow(len(PORTS))
    for at in range(len(PORTS)):
        port = PORTS[(start + at) % len(PORTS)]
        with socket.socket() as one:
            with contextlib.suppress(OSError):
                one.bind(("127.0.0.1", port))
                found.append(port)
        if len(found) == count:
            return found
    raise Failed(f"no {count} free ports from {PORTS.start} to {PORTS.stop}")


def quantile(ordered, share):
    """The value that a share of all did not exceed."""
    rank = max(1, -(-len(ordered) * share // 1))
    return ordered[int(rank) - 1]


# --------------------------------------------------------------------------------------------------------- the systems


class Cell:
    """One measurement: a system, a distribution, a number of connections."""

    def __init__(self, args, servers, base, distribution, connections):
        self.args = args
        self.servers = servers
        self.distribution = distribution
        self.connections = connections
        self.dir = Path(tempfile.mkdtemp(prefix="cell-", dir=base))
        self.dir.chmod(0o755)
        self.password = secrets.token_hex(16)

    def private(self, name, user):
        """A directory of a server's own."""
        path = self.dir / name
        path.mkdir(mode=0o700)
        shutil.chown(path, user, user)
        return path

    def figures(self, orders, seconds, p50_ms, p99_ms, server_us, generator_us):
        if orders == 0:
            raise Failed("no order was answered")
        return {
            "orders_per_second": orders / seconds,
            "p50_ms": p50_ms,
            "p99_ms": p99_ms,
            "server_cpu_us_per_order": server_us / orders,
            "generator_cpu_us_per_order": generator_us / orders,
        }


class Postgres(Cell):
    """One node, or one with a standby that every commit waits for."""

    def __init__(self, *cell, standby):
        super().__init__(*cell)
        self.standby = standby
        self.ports = free_ports(2)
        self.env = dict(os.environ, PGPASSWORD=self.password, PGHOST="127.0.0.1", PGUSER="postgres", LC_ALL="C",
                        PGDATABASE="postgres", PGPORT=str(self.ports[0]))

    def as_postgres(self, command, what):
        return call(["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", *command],
                    START_TIMEOUT_S * 2, what, env=self.env)

    def sql(self, text, port=None):
        return call([PG_BIN / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-p", str(port or self.ports[0])],
                    START_TIMEOUT_S * 2, "psql", env=self.env, stdin=text).strip()

    def settings(self, port):
        # Durable and with the room that a server of its own would have; everything else as it comes.
        return (f"listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = ''\n"
                f"max_connections = {self.connections + 20}\nfsync = on\nsynchronous_commit = on\nfull_page_writes = on\n"
                "shared_buffers = 512MB\nmax_wal_size = 4GB\nwal_buffers = 16MB\ncheckpoint_timeout = 30min\njit = off\n"
                "wal_level = replica\nmax_wal_senders = 4\nhot_standby = on\nlogging_collector = off\n")

    def serve(self, data, port):
        command = [PG_BIN / "postgres", "-D", data]
        process = self.servers.start(command, self.dir / f"postgres-{port}.log", user="postgres", death="QUIT",
                                     env=dict(self.env, PGPORT=str(port)))
        await_true("PostgreSQL answers", lambda: self.sql("SELECT 1", port) == "1", self.servers)
        return process

    def start(self):
        data = self.private("primary", "postgres")
        secret = self.dir / "password"
        secret.write_text(self.password)
        secret.chmod(0o600)
        shutil.chown(secret, "postgres", "postgres")
        self.as_postgres([PG_BIN / "initdb", "-D", data, "-U", "postgres", "--auth=md5", f"--pwfile={secret}",
                          "--no-sync", "--encoding=UTF8", "--locale=C"], "initdb")
        with open(data / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(self.settings(self.ports[0]))
        processes = [self.serve(data, self.ports[0])]
        self.sql((HERE / "order.sql").read_text())
        self.sql(f"INSERT INTO sku SELECT n, {UNITS}, 0 FROM generate_series(1, {SKUS[self.distribution]}) n;")
        if self.standby:
            processes.append(self.start_standby())
        self.sql("VACUUM ANALYZE;")
        self.sql("CHECKPOINT;")
        return processes

    def start_standby(self):
        port = self.ports[1]
        copy = self.private("standby", "postgres")
        self.as_postgres([PG_BIN / "pg_basebackup", "-D", copy, "-X", "stream", "-c", "fast", "--no-sync"],
                         "pg_basebackup")
        with open(copy / "postgresql.conf", "a", encoding="utf-8") as conf:
            conf.write(f"port = {port}\nprimary_conninfo = 'host=127.0.0.1 port={self.ports[0]} user=postgres "
                       f"password={self.password} application_name=standby'\n")
        (copy / "standby.signal").touch()
        process = self.serve(copy, port)
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'standby';")
        self.sql("SELECT pg_reload_conf();")
        sync = "SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync';"
        await_true("the standby is synchronous", lambda: self.sql(sync) == "1", self.servers)
        return process

    def scripts(self):
        """One pgbench script per number of lines, chosen evenly; SKUs distinct and descending, as Agora's orders are."""
        skus = SKUS[self.distribution]
        is_hot = self.distribution == "hot"
        files = []
        for lines in (1, 2, 3):
            text = f"\\set n :n + 1\n\\set account random(1, {ACCOUNTS})\n"
            low = 2 if is_hot else 1
            # The last SKU, lowest, is the hot one in nine of ten. The others are drawn from parts of the range that do
            # not meet, so that they differ without drawing again; each is as likely as its neighbour.
            parts = lines - 1 if is_hot else lines
            width = (skus - low + 1) / max(parts, 1)
            names = []
            for part in range(parts):
                first, last = low + int(part * width), low + int((part + 1) * width) - 1
                text += f"\\set s{part} random({first}, {last})\n"
                names.insert(0, f"s{part}")
            if is_hot:
                # One of ten names another one in its place; below all others only the hot one lies, so it takes the next.
                others = f"random(2, {skus})" if lines == 1 else "greatest(1, :s0 - 1)"
                text += f"\\set last case when random(1, 10) <= 9 then 1 else {others} end\n"
                names.append("last")
            skus_text = ", ".join(f":{name}::int" for name in names)
            ones = ", ".join("1" for _ in names)
            text += (f"SELECT place_order('key-' || :client_id || '-' || :n, :account::int, ARRAY[{skus_text}], "
                     f"ARRAY[{ones}]);\n")
            path = self.dir / f"order-{lines}.sql"
            path.write_text(text)
            files += ["-f", path]
        return files

    def measure(self):
        args, processes = self.args, self.start()
        log = self.dir / "pgbench"
        # Two seconds more than are looked at: the time that counts is cut out of the log.
        command = [PG_BIN / "pgbench", "-n", "-M", "prepared", "-c", self.connections, "-j", 1, "-D", "n=0", "-T",
                   args.warmup + args.seconds + 2, "-l", f"--log-prefix={log}", *self.scripts()]
        generator = self.servers.start(command, self.dir / "pgbench.log", env=self.env)
        written = self.dir / f"pgbench.{generator.pid}"
        await_true("pgbench orders", lambda: written.exists() and written.stat().st_size > 0, self.servers)
        time.sleep(args.warmup)
        pids = [process.pid for process in processes]
        begun, server, load = time.time(), cpu_us(pids), own_cpu_us(generator.pid)
        time.sleep(args.seconds)
        ended, server, load = time.time(), cpu_us(pids) - server, own_cpu_us(generator.pid) - load
        if generator.wait(START_TIMEOUT_S) != 0:
            raise Failed(f"pgbench ended with {generator.returncode}:\n{tail(self.dir / 'pgbench.log')}")
        self.servers.stop(generator)
        took, last = [], 0.0
        with open(written, encoding="ascii") as lines:
            for line in lines:
                fields = line.split()
                last = int(fields[4]) + int(fields[5]) / 1e6
                if begun <= last < ended:
                    took.append(int(fields[2]) / 1_000)
        if last < ended:
            raise Failed(f"pgbench stopped {ended - last:.1f} s before the end of the measured time")
        took.sort()
        self.prove(len(took))
        for process in reversed(processes):
            self.servers.stop(process)
        return self.figures(len(took), ended - begun, quantile(took, 0.5) if took else 0,
                            quantile(took, 0.99) if took else 0, server, load)

    def prove(self, counted):
        """What was counted is there, with everything that belongs to it."""
        shown = self.sql("SELECT (SELECT count(*) FROM placed), (SELECT count(*) FROM idempotency), "
                         "(SELECT count(*) FROM feed), (SELECT sum(reserved) FROM sku), "
                         "(SELECT sum(quantity) FROM order_line);")
        orders, keys, events, reserved, sold = (int(figure) for figure in shown.split("|"))
        if not (orders == keys == events >= counted and reserved == sold >= orders):
            raise Failed(f"PostgreSQL holds {orders} orders, {keys} keys, {events} events, {reserved} of {sold} units "
                         f"reserved; {counted} orders were counted")


class Redis(Cell):
    """One node, or one with a replica that every order waits for."""

    def __init__(self, *cell, replica):
        super().__init__(*cell)
        self.replica = replica
        self.ports = free_ports(2)
        self.env = dict(os.environ, REDISCLI_AUTH=self.password, LC_ALL="C")

    def cli(self, port, *command, stdin=None):
        return call(["redis-cli", "-h", "127.0.0.1", "-p", port, *command], START_TIMEOUT_S, "redis-cli", env=self.env,
                    stdin=stdin).strip()

    def serve(self, port, replica_of=None):
        data = self.private(f"redis-{port}", "redis")
        conf = (f"bind 127.0.0.1\nport {port}\ndir {data}\nrequirepass {self.password}\nmasterauth {self.password}\n"
                "appendonly yes\nappendfsync always\nauto-aof-rewrite-percentage 0\nsave \"\"\ndaemonize no\n"
                f"maxclients {self.connections + 100}\nrepl-diskless-sync yes\nrepl-diskless-sync-delay 0\n"
                "repl-backlog-size 256mb\nclient-output-buffer-limit replica 0 0 0\n")
        if replica_of:
            conf += f"replicaof 127.0.0.1 {replica_of}\n"
        path = data / "redis.conf"
        path.write_text(conf)
        path.chmod(0o600)
        shutil.chown(path, "redis", "redis")
        process = self.servers.start(["redis-server", path], self.dir / f"redis-{port}.log", user="redis", death="TERM")
        await_true("Redis answers", lambda: self.cli(port, "ping") == "PONG", self.servers)
        return process

    def start(self):
        primary, second = self.ports
        processes = [self.serve(primary)]
        goods = "".join(f"HSET sku:{n} available {UNITS} reserved 0\n" for n in range(1, SKUS[self.distribution] + 1))
        self.cli(primary, stdin=goods)
        if self.replica:
            processes.append(self.serve(second, primary))
            await_true("the replica follows", self.follows, self.servers)
        sha = self.cli(primary, "script", "load", (HERE / "order.lua").read_text())
        if not re.fullmatch("[0-9a-f]{40}", sha):
            raise Failed(f"Redis refuses order.lua: {sha}")
        return processes, sha

    def follows(self):
        info = self.cli(self.ports[1], "info")
        return ("master_link_status:up" in info and "aof_rewrite_in_progress:0" in info
                and "aof_rewrite_scheduled:0" in info and "state=online" in self.cli(self.ports[0], "info", "replication"))

    def measure(self):
        args = self.args
        processes, sha = self.start()
        command = [GENERATOR, self.ports[0], sha, self.connections, args.warmup, args.seconds, self.distribution,
                   1 if self.replica else 0, secrets.token_hex(4)]
        log = self.dir / "redis_orders.log"
        generator = self.servers.start(command, log, env=self.env)
        pids = [process.pid for process in processes]
        said = lambda word: lambda: word in log.read_text().split()
        await_true("the generator measures", said("measuring"), self.servers, args.warmup + START_TIMEOUT_S)
        server, load = cpu_us(pids), own_cpu_us(generator.pid)
        time.sleep(max(0, args.seconds - 0.5))
        while "measured" not in log.read_text().split() and generator.poll() is None:
            time.sleep(0.01)
        with contextlib.suppress(OSError):
            load = own_cpu_us(generator.pid) - load
        server = cpu_us(pids) - server
        if generator.wait(START_TIMEOUT_S) != 0:
            raise Failed(f"redis_orders ended with {generator.returncode}:\n{tail(log)}")
        self.servers.stop(generator)
        found = json.loads(log.read_text().splitlines()[-1])
        self.prove(found["orders"])
        for process in reversed(processes):
            self.servers.stop(process)
        return self.figures(found["orders"], found["seconds"], found["p50_ms"], found["p99_ms"], server, load)

    def prove(self, counted):
        """What was counted is there, with its event, on every server."""
        for port in self.ports[: 2 if self.replica else 1]:
            orders, events = int(self.cli(port, "get", "orders") or 0), int(self.cli(port, "xlen", "feed"))
            if not orders == events >= counted:
                raise Failed(f"Redis on port {port} holds {orders} orders and {events} events; {counted} were counted")


class Agora(Cell):
    """Three nodes that `agora bench` starts and stops itself."""

    def measure(self):
        args = self.args
        out = self.dir / "agora.out"
        command = [args.agora, "bench", "orders", "--connections", self.connections, "--seconds", args.seconds,
                   "--distribution", self.distribution, "--json"]
        # Its nodes keep their data where the peers keep theirs.
        process = self.servers.start(command, out, env=dict(os.environ, TMPDIR=str(self.dir)), death="TERM")
        timeout_s = args.seconds + 2 * START_TIMEOUT_S
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise Failed(f"agora bench: not done within {timeout_s} s:\n{tail(out)}") from error
        finally:
            self.servers.stop(process)
        if process.returncode != 0:
            raise Failed(f"agora bench ended with {process.returncode}:\n{tail(out)}")
        lines = [line for line in out.read_text().splitlines() if line.startswith("{")]
        if not lines:
            raise Failed(f"agora bench printed no figures:\n{tail(out)}")
        found = json.loads(lines[-1])
        missing = [key for key in ("orders_per_second", "p50_ms", "p99_ms", "cpu_us_per_order") if found.get(key) is None]
        if missing:
            raise Failed(f"agora bench does not say {', '.join(missing)}: {lines[-1]}")
        if found.get("errors"):
            say(f"agora bench counted {found['errors']} errors:\n{tail(out)}")
        return {
            "orders_per_second": found["orders_per_second"],
            "p50_ms": found["p50_ms"],
            "p99_ms": found["p99_ms"],
            "server_cpu_us_per_order": found["cpu_us_per_order"],
            "generator_cpu_us_per_order": found.get("generator_cpu_us_per_order"),
            "errors": found.get("errors"),
        }


def cell_of(system, *cell):
    if system == AGORA:
        return Agora(*cell)
    if system.startswith("postgres"):
        return Postgres(*cell, standby=system.endswith("+standby"))
    return Redis(*cell, replica=system.endswith("+replica"))


# ------------------------------------------------------------------------------------------------------ before and after


def install(args):
    """Installs what is missing, without letting the distribution start servers of its own."""
    have = {"postgresql-15": (PG_BIN / "pgbench").exists(), "redis-server": shutil.which("redis-server") is not None}
    missing = [package for package in PACKAGES if not have[package]]
    if missing and args.no_install:
        raise Failed(f"not installed: {', '.join(missing)} (run without --no-install, or apt-get install them)")
    if missing:
        if not shutil.which("apt-get"):
            raise Failed(f"not installed: {', '.join(missing)}; they are installed with apt-get, which is not here")
        say(f"installing {', '.join(missing)} …")
        policy = Path("/usr/sbin/policy-rc.d")
        env = dict(os.environ, DEBIAN_FRONTEND="noninteractive", LC_ALL="C")
        try:
            mine = not policy.exists()
            if mine:
                policy.write_text("#!/bin/sh\nexit 101\n")
                policy.chmod(0o755)
            call(["apt-get", "update", "-qq"], INSTALL_TIMEOUT_S, "apt-get update", env=env)
            call(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], INSTALL_TIMEOUT_S,
                 f"apt-get install {' '.join(missing)}", env=env)
        finally:
            if mine:
                policy.unlink(missing_ok=True)
    versions = {"postgres": call([PG_BIN / "postgres", "--version"], 30, "postgres --version").strip(),
                "redis": call(["redis-server", "--version"], 30, "redis-server --version").split(" sha=")[0]}
    if "v=7." not in versions["redis"]:
        raise Failed(f"Redis 7 is wanted, this is {versions['redis']}")
    return versions


def build(args):
    if any(system.startswith("redis") for system in args.peers):
        say("building the generator for Redis …")
        try:
            command = ["cargo", "build", "--release", "--locked", "-q", "-p", "agora-bench", "--example", "redis_orders"]
            done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, timeout=BUILD_TIMEOUT_S, check=False)
        except FileNotFoundError as error:
            raise Failed("cargo is not installed") from error
        if done.returncode != 0:
            raise Failed("the generator for Redis does not build")


def machine():
    cpu = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.M)
    memory_kib = int(re.search(r"^MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(), re.M).group(1))
    return {"cpu": cpu.group(1) if cpu else "unknown", "cores": os.cpu_count(), "memory_gib": round(memory_kib / 2**20),
            "kernel": os.uname().release}


def say(text):
    print(text, file=sys.stderr, flush=True)


def check(args):
    if os.geteuid() != 0:
        raise Failed("this needs root: it installs packages, and PostgreSQL and Redis run as users of their own")
    if not shutil.which("setpriv"):
        raise Failed("setpriv is not installed (package util-linux)")
    if not args.peers_only and not os.access(args.agora, os.X_OK):
        raise Failed(f"{args.agora} is not there: cargo build --release, or leave Agora out with --peers-only")
    parent = args.dir.resolve()
    parent.mkdir(parents=True, exist_ok=True)
    for place in [parent, *parent.parents]:
        if not place.stat().st_mode & 0o001:
            raise Failed(f"{place} is closed to other users, so PostgreSQL cannot keep its data below it: give --dir")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    need = 2 * max(args.connections) + 200
    if hard != resource.RLIM_INFINITY and hard < need:
        raise Failed(f"{max(args.connections)} connections need {need} open files, allowed are {hard}")


def run_all(args, servers, base, results):
    """All cells, added to the results as they are done; systems in turn, another one first in each round."""
    systems = ([] if args.peers_only else [AGORA]) + args.peers
    for distribution in args.distributions:
        for connections in args.connections:
            rounds = {system: [] for system in systems}
            results.append({"distribution": distribution, "connections": connections, "rounds": rounds})
            for number in range(args.rounds):
                shift = number % len(systems)
                for system in systems[shift:] + systems[:shift]:
                    cell = cell_of(system, args, servers, base, distribution, connections)
                    try:
                        figures = cell.measure()
                    except Failed as error:
                        raise Failed(f"{system}, {distribution}, {connections} connections: {error}") from error
                    finally:
                        servers.stop_all()
                        shutil.rmtree(cell.dir, ignore_errors=True)
                    rounds[system].append(figures)
                    say(f"{distribution:8} {connections:4} connections, round {number + 1}: {system:17} "
                        f"{figures['orders_per_second']:9,.0f} orders/s  p99 {figures['p99_ms']:8.2f} ms  "
                        f"{figures['server_cpu_us_per_order']:7.1f} µs")


def median(rounds, key):
    values = [figures[key] for figures in rounds if figures[key] is not None]
    return statistics.median(values) if values else None


def rows(results):
    """One row per cell and system: medians over the rounds, and the median of the rounds' ratios."""
    for result in results:
        ours = result["rounds"].get(AGORA)
        for system, rounds in result["rounds"].items():
            if not rounds:
                continue
            ratios = []
            if ours and system != AGORA:
                ratios = [mine["orders_per_second"] / theirs["orders_per_second"] for mine, theirs in zip(ours, rounds)]
            keys = ["orders_per_second", "p50_ms", "p99_ms", "server_cpu_us_per_order", "generator_cpu_us_per_order"]
            rates = [figures["orders_per_second"] for figures in rounds]
            yield {
                "distribution": result["distribution"],
                "connections": result["connections"],
                "system": system,
                **{key: median(rounds, key) for key in keys},
                "orders_per_second_min": min(rates),
                "orders_per_second_max": max(rates),
                "agora_to_peer": statistics.median(ratios) if ratios else None,
            }


def print_table(table):
    heads = ["distribution", "connections", "system", "orders/s", "(min – max)", "p50 ms", "p99 ms", "server µs/order",
             "generator µs/order", "Agora/peer"]
    shown = lambda value, form: "–" if value is None else format(value, form)
    lines = [[row["distribution"], str(row["connections"]), row["system"], shown(row["orders_per_second"], ",.0f"),
              f"{row['orders_per_second_min']:,.0f} – {row['orders_per_second_max']:,.0f}", shown(row["p50_ms"], ".2f"),
              shown(row["p99_ms"], ".2f"), shown(row["server_cpu_us_per_order"], ".1f"),
              shown(row["generator_cpu_us_per_order"], ".1f"), shown(row["agora_to_peer"], ".2f")] for row in table]
    widths = [max(len(line[at]) for line in [heads, *lines]) for at in range(len(heads))]
    for number, line in enumerate([heads, *lines]):
        padded = enumerate(zip(line, widths))
        cells = [text.ljust(width) if at in (0, 2) else text.rjust(width) for at, (text, width) in padded]
        print("| " + " | ".join(cells) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def report(args, versions, results):
    """The table, and the file if one was asked for. Of a run that failed, what was done."""
    table = list(rows(results))
    if not table:
        return
    print_table(table)
    if args.json:
        settings = {"seconds": args.seconds, "warmup": args.warmup, "rounds": args.rounds}
        whole = {"machine": machine(), "versions": versions, "settings": settings, "rows": table, "cells": results}
        args.json.write_text(json.dumps(whole, indent=1) + "\n")


def arguments():
    def numbers(text):
        found = [int(part) for part in text.split(",")]
        if not all(1 <= number <= 5_000 for number in found):
            raise argparse.ArgumentTypeError("give numbers from 1 to 5000, with commas between them")
        return found

    def some_of(allowed):
        def parse(text):
            found = text.split(",")
            if not set(found) <= set(allowed):
                raise argparse.ArgumentTypeError(f"give some of {','.join(allowed)}")
            return found
        return parse

    def bounded(low, high):
        def parse(text):
            if not low <= int(text) <= high:
                raise argparse.ArgumentTypeError(f"give {low} to {high}")
            return int(text)
        return parse

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=numbers, default=[64, 256], metavar="N,…",
                        help="connections, each waiting for its answer [64,256]")
    parser.add_argument("--distributions", type=some_of(list(SKUS)), default=list(SKUS), metavar="D,…",
                        help="hot: 90 %% of orders name one SKU of 1,000; uniform: 10,000 SKUs [hot,uniform]")
    parser.add_argument("--seconds", type=bounded(1, 600), default=10, help="measured time of a cell [10]")
    parser.add_argument("--warmup", type=bounded(0, 60), default=2, help="time before it; Agora has its own [2]")
    parser.add_argument("--rounds", type=bounded(1, 20), default=3, help="measurements of each cell [3]")
    parser.add_argument("--peers", type=some_of(PEERS), default=PEERS, metavar="P,…",
                        help=f"which peers [{','.join(PEERS)}]")
    parser.add_argument("--peers-only", action="store_true", help="leave Agora out")
    parser.add_argument("--agora", type=Path, default=ROOT / "target/release/agora",
                        help="the binary [target/release/agora]")
    parser.add_argument("--dir", type=Path, default=ROOT / "target",
                        help="where temporary data lies: the disk that is measured [target]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, every round")
    parser.add_argument("--minutes", type=bounded(1, 600), help="give up after so long [twice what is expected, and five]")
    parser.add_argument("--no-install", action="store_true", help="fail if a package is missing")
    args = parser.parse_args()
    args.agora = args.agora.resolve()
    return args


def interrupted(number, _frame):
    raise Failed("out of time" if number == signal.SIGALRM else f"ended by {signal.Signals(number).name}")


def main():
    args = arguments()
    stops = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    servers, base, versions, results = Servers(), None, {}, []
    try:
        for stop in stops:
            signal.signal(stop, interrupted)
        check(args)
        versions = install(args)
        build(args)
        systems = len(args.peers) + (not args.peers_only)
        cells = systems * args.rounds * len(args.connections) * len(args.distributions)
        expected_s = cells * (args.seconds + args.warmup + CELL_OVERHEAD_S)
        say(f"{cells} measurements, about {expected_s // 60 + 1} minutes")
        signal.alarm(60 * args.minutes if args.minutes else 2 * expected_s + 300)
        base = Path(tempfile.mkdtemp(prefix="peers-", dir=args.dir.resolve()))
        base.chmod(0o755)
        run_all(args, servers, base, results)
        return 0
    except Failed as error:
        say(f"run.py: {error}")
        return 1
    finally:
        for stop in stops:
            signal.signal(stop, signal.SIG_IGN)
        servers.stop_all()
        if base:
            shutil.rmtree(base, ignore_errors=True)
        report(args, versions, results)


if __name__ == "__main__":
    sys.exit(main())
