"""A Ray of our own, or the one of ``RAY_ADDRESS``: who may talk to it, and how it ends."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil

from polopt.cluster.gpus import reserved
from polopt.cluster.guard import Guard, belonging
from polopt.cluster.nodes import Asked, check_nodes, check_slots
from polopt.cluster.placement import ADDRESS, address, clustered, reward_actors
from polopt.errors import EngineError, missing_extra, one_line
from polopt.isolated import workers
from polopt.recipe import StageRecipe

START = 300.0  # seconds for a Ray on this machine
REACHED = 5.0  # seconds for a connection to a cluster
ANSWERED = 60.0  # seconds for its first answer; importing Ray takes some of them
_ASK = (
    "import sys; from ray._raylet import GcsClient; from ray.exceptions import AuthenticationError"
    "\ntry: GcsClient(address=sys.argv[1])"
    "\nexcept AuthenticationError: print('refused')"
    "\nelse: print('open')"
)
_OPEN = (
    "asks for no token: whoever reaches it runs code on it; start its nodes with "
    "RAY_AUTH_MODE=token, or set coordination.insecure"
)
_QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
_UNUSED = ("metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port")
_PATIENT = {  # a busy machine takes its time to import what Ray's processes need
    "RAY_gcs_server_port_wait_time_s": f"{START:.0f}",
    "RAY_worker_register_timeout_seconds": f"{START:.0f}",
    "RAY_agent_register_timeout_ms": f"{1000 * START:.0f}",
    "RAY_worker_niceness": "0",  # else actors get what all others leave, the trainer too
}


_inside: ContextVar[bool] = ContextVar("inside", default=False)


def check_ray() -> None:
    """Refuse the mode where Ray is not installed.

    Raises:
        MissingExtraError: says what to install.
    """
    _ray()


def _ray() -> ModuleType:
    with _signals_kept():  # an import of Ray handles SIGTERM
        try:
            import ray
        except ImportError as error:
            field = 'coordination.mode: "cluster"'
            raise missing_extra(field, "ray", "cluster", error) from error
    return ray


@contextmanager
def connected(
    stages: Sequence[StageRecipe], tell: Callable[[str], None], gpu: str | None = None
) -> Generator[None]:
    """Inside, this process is connected to Ray, if a stage asks for it and it is not yet.

    A Ray that is started here listens on the loopback interface, asks for a token that only this
    user can read, and ends with this process, however that ends. One that this process is connected
    to already is left as it is.

    Args:
        stages: of the run, resolved.
        tell: of the address of the dashboard.
        gpu: the name of the trainer's, as ``CUDA_VISIBLE_DEVICES`` has it; None: the run computes
            on processors.

    Raises:
        MissingExtraError: Ray is not installed.
        EngineError: it does not start, cannot be reached, lets in anybody, or has nodes with other
            versions.
        RecipeError: it has too few slots.
    """
    settings = [stage.coordination for stage in stages if clustered(stage)]
    if not settings or _inside.get():
        yield
        return
    ray, dashboard = _ray(), any(one.dashboard for one in settings)
    with ExitStack() as stack:
        stack.callback(_inside.reset, _inside.set(True))
        there, insecure = address(), all(one.insecure for one in settings)
        if ray.is_initialized():
            if not insecure and not _asks_for_a_token(ray):
                raise EngineError(f"coordination.mode: the Ray of this process {_OPEN}")
        elif there is None:
            url = stack.enter_context(_started(ray, dashboard=dashboard))
            if dashboard:
                tell(f"Ray's dashboard: http://{url}")
        else:
            stack.enter_context(_joined(ray, there, insecure=insecure))
        if gpu is not None:
            stack.enter_context(reserved(gpu))
        for one in settings:
            check_slots(Asked(one.engines, one.engine_devices, one.trainers, gpu is not None))
        check_nodes()
        from polopt.cluster.rewards import RewardActor

        processors = int(ray.cluster_resources().get("CPU", 1))
        stack.enter_context(workers.served_by(RewardActor, reward_actors(processors)))
        yield


@contextmanager
def _started(ray: ModuleType, *, dashboard: bool) -> Generator[str]:
    """A Ray on this machine, and the address of its dashboard."""
    # Sockets of Ray lie in it, whose paths may have 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="polopt-ray-", dir="/tmp"))
    token = directory / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    secured = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token), "RAY_AUTH_TOKEN": None}
    with ExitStack() as stack:
        stack.callback(Guard(directory).close)
        stack.callback(ray.shutdown)
        # Not longer than this: what else this process starts does not belong to the cluster.
        with _environment({**_QUIET, **_PATIENT, **secured}), _loopback(ray), _patient(ray):
            _read_again(ray)
            try:
                with _signals_kept():
                    context = ray.init(
                        address="local",
                        include_dashboard=dashboard,
                        dashboard_host="127.0.0.1",
                        log_to_driver=False,
                        logging_level=logging.CRITICAL,
                        _temp_dir=str(directory),
                    )
            except Exception as error:  # of Ray, in whatever class
                reason = one_line(f"{type(error).__name__}: {error}")
                raise EngineError(f"coordination.mode: Ray does not start: {reason}") from error
        if heard := sorted(_elsewhere(directory)):
            raise EngineError(
                f"coordination.mode: Ray listens on {heard[0]}, beyond this machine; it needs "
                "another version of Ray"
            )
        yield context.dashboard_url


def _elsewhere(directory: Path) -> set[str]:
    """Addresses beyond the loopback interface on which a cluster listens."""
    found = set[str]()
    for process in belonging(directory, os.getpid()):
        with suppress(psutil.Error):  # it has ended
            found |= {
                f"{one.laddr.ip}:{one.laddr.port}"
                for one in process.net_connections()
                if one.status == "LISTEN" and not one.laddr.ip.endswith(("127.0.0.1", "::1"))
            }
    return found


@contextmanager
def _loopback(ray: ModuleType) -> Generator[None]:
    """Ray binds to the address by which others reach a node, unless there are no others."""
    constants = ray._private.ray_constants
    before, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    with _environment({constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}):
        try:
            yield
        finally:
            constants.ENABLE_RAY_CLUSTER = before


@contextmanager
def _patient(ray: ModuleType) -> Generator[None]:
    """Ray gives the agents of its node 15 s to say their ports, and the node 30 s to be there.

    There is no setting for either: we say the ports for them, those of metrics unused, and ask for
    the node again. What scales a cluster, and what sends its logs to a terminal, is not started.
    """
    services, parameters, node = (
        getattr(ray._private, name) for name in ("services", "parameter", "node")
    )
    port = free_port("127.0.0.1")
    ports = {**dict.fromkeys(_UNUSED, -1), "runtime_env_agent_port": port}
    fixed = {"runtime_env_agent_port": port, "no_monitor": True, "include_log_monitor": False}
    get, made, start = services.get_node, parameters.RayParams, node.Node.start_raylet
    deadline = time.monotonic() + START

    def waited(*arguments: Any) -> Any:  # noqa: ANN401 - what Ray asks
        while True:
            try:
                return get(*arguments)
            except RuntimeError:  # not there yet
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)

    def described(**values: Any) -> Any:  # noqa: ANN401
        return made(**{**values, **fixed})

    def started(self: Any, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401
        for name, number in ports.items():
            ray._raylet.persist_port(self._session_dir, self._node_id, name, number)
        return start(self, *arguments, **named)

    services.get_node, node.Node.start_raylet = waited, started
    parameters.RayParams = described
    try:
        yield
    finally:
        services.get_node, node.Node.start_raylet = get, start
        parameters.RayParams = made


def free_port(host: str) -> int:
    """A port on which nobody listens."""
    with socket.create_server((host, 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def _joined(ray: ModuleType, there: str, *, insecure: bool) -> Generator[None]:
    """A connection to a cluster of others."""
    if "://" in there or there == "auto":
        raise EngineError(
            f"{ADDRESS}: {there!r} is not allowed; HOST:PORT of the head, from a machine that is a "
            "node of the cluster: the trainer is one of its processes"
        )
    if _lets_in_anybody(there) and not insecure:
        raise EngineError(f"{ADDRESS}: the Ray at {there} {_OPEN}")
    with _environment(_QUIET), ExitStack() as stack:
        stack.callback(ray.shutdown)
        with _signals_kept():
            _read_again(ray)
            try:
                ray.init(address=there, log_to_driver=False, logging_level=logging.CRITICAL)
            except Exception as error:  # no token, other versions, no node on this machine
                reason = one_line(f"{type(error).__name__}: {error}")
                raise EngineError(f"{ADDRESS}: {there} cannot be joined: {reason}") from error
        yield


def _lets_in_anybody(there: str) -> bool:
    """Whether a cluster answers somebody without a token.

    Raises:
        EngineError: nobody answers there.
    """
    host, _, port = there.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=REACHED):
            pass
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, there],
            env={**os.environ, "RAY_AUTH_MODE": "disabled"},
            capture_output=True,
            text=True,
            timeout=ANSWERED,
            check=False,
        )
    except (OSError, ValueError, OverflowError, subprocess.TimeoutExpired) as error:
        raise EngineError(
            f"{ADDRESS}: no Ray answers at {there} ({one_line(error, 80)})"
        ) from error
    if asked.stdout.strip() not in ("open", "refused"):
        raise EngineError(f"{ADDRESS}: no Ray answers at {there}")
    return asked.stdout.strip() == "open"


def _asks_for_a_token(ray: ModuleType) -> bool:
    raylet = ray._raylet
    return raylet.get_authentication_mode() == raylet.AuthenticationMode.TOKEN


def _read_again(ray: ModuleType) -> None:
    """Ray reads its settings and the token once in a process; have it read them now."""
    ray._raylet.Config.initialize("")
    ray._raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextmanager
def _environment(values: Mapping[str, str | None]) -> Generator[None]:
    """Inside, variables of the environment are these; None: absent."""
    before = {name: os.environ.get(name) for name in values}
    _set(values)
    try:
        yield
    finally:
        _set(before)


def _set(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextmanager
def _signals_kept() -> Generator[None]:
    """Ray has ideas of its own about signals; what to do about them is for the run to say."""
    numbers = (signal.SIGTERM, signal.SIGINT)
    before: dict[int, Any] = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is not handler:
                signal.signal(number, handler)
