"""Runs a server for the command line: load, configure, listen, wait for a signal, drain.

Decides the order of these steps, what each failure says and the exit status. Comes after the decision to
patch (`webmesh.serve`), so it may import what it likes; but what touches sockets only after the user's
module, which may patch by itself.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gevent
from gevent import get_hub

from webmesh.cli.announcing import Announcer, Banner
from webmesh.cli.arguments import ServeOptions
from webmesh.cli.loading import Loaded, LoadFailed, load_serializer, load_server
from webmesh.cli.reloading import ImportReporter
from webmesh.cli.systemd import Notifier, activated_descriptor, inherited_socket
from webmesh.exceptions import ConfigurationError, TransportError
from webmesh.observability.logs import QueuedHandler, set_up_logging
from webmesh.processes import is_patched

if TYPE_CHECKING:
    from webmesh.cli.stopping import StopSignals
    from webmesh.cli.worker_link import WorkerEnd
    from webmesh.webmesh_server import WebMeshServer
    from webmesh.worker_ticket import WorkerTicket

STOPPED, NOT_STARTED, CUT_OFF = 0, 2, 3

PRIVILEGED_PORTS = 1024
"""Ports below need a right of their own on Unix systems."""

logger = logging.getLogger("webmesh.serve")


def serve(options: ServeOptions, prog: str) -> int:
    """Serve until a signal asks to stop; the exit status.

    Log records of the whole program go to standard error from here on.
    """
    handler = set_up_logging(options.log_level, options.log_format)
    announcer = Announcer(handler, options.log_format, prog)
    folder = Path.cwd()
    reporter = ImportReporter(options.report_to, folder) if options.report_to is not None else None
    try:
        return _serve(options, folder, announcer, handler, reporter)
    except LoadFailed as failed:
        announcer.failed(str(failed), failed.user_traceback())
    except ConfigurationError as error:
        announcer.failed(str(error))
    except KeyboardInterrupt:  # while the user's module was being imported: afterwards the signal is ours
        return 128 + signal.SIGINT
    finally:
        if reporter is not None:
            reporter.report()
        handler.flush()
    return NOT_STARTED


def _serve(
    options: ServeOptions, folder: Path, announcer: Announcer, handler: QueuedHandler, reporter: ImportReporter | None
) -> int:
    if options.patch:
        # An interrupt while the module waits is raised in the hub, which would print it before it is passed on.
        get_hub().NOT_ERROR += (KeyboardInterrupt,)
    loaded = load_server(options.target, folder)
    if loaded.server.begun:
        raise ConfigurationError(f"{loaded.name} calls listen() when it is imported: leave that to serve")
    _tell_late_patch(options)
    _configure(loaded.server, options, folder)
    worker = _joined(loaded.server, options.worker, handler)
    if reporter is not None:
        reporter.start()
    from webmesh.cli.stopping import StopSignals

    def force(number: int) -> None:
        try:
            announcer.forced(signal.Signals(number).name)
            handler.flush()
        finally:
            os._exit(128 + number)

    with StopSignals(force) as signals:
        _listen(loaded.server, options, None if worker is None else worker.ticket)
        if worker is None:
            announcer.serving(_banner(loaded))
        else:
            _report(loaded, worker, signals)
        with _told(loaded.server, worker or Notifier()) as notifier:
            _run(loaded.server, signals, notifier)
    if worker is not None:
        worker.tidy()
    return CUT_OFF if loaded.server.drained is False else STOPPED


def _joined(server: WebMeshServer, link: int | None, handler: QueuedHandler) -> WorkerEnd | None:
    """Become one of several workers, where this process is one."""
    if link is None:
        return None
    from webmesh.cli.worker_link import WorkerEnd
    from webmesh.worker import join_workers

    worker = WorkerEnd(link)
    join_workers(server, worker.ticket)
    handler.addFilter(worker.mark)
    return worker


def _report(loaded: Loaded, worker: WorkerEnd, signals: StopSignals) -> None:
    """Tell the supervisor that this worker serves, as soon as it does so together with the others; not if it is to stop
    before that."""
    from webmesh.worker import await_fellows

    worker.watch()
    together = await_fellows(loaded.server, worker.ticket, lambda: signals.asked)
    if signals.asked:
        return
    if not together:
        logger.warning("this worker serves without links to all others", extra={"others": worker.ticket.fellows})
    timeouts = loaded.server.timeouts
    worker.ready(_banner(loaded), ends_within=timeouts.drain + 2 * timeouts.close)  # what runs gets that, and its peers


@contextlib.contextmanager
def _told(server: WebMeshServer, notifier: Notifier | WorkerEnd) -> Iterator[Notifier | WorkerEnd]:
    """Tell the service manager that the server is ready, and as long as its hub turns that it lives."""
    notifier.tell(READY=1, STATUS=f"serving at {server.url}")
    signs = None if notifier.interval is None else gevent.spawn(_show_life, server, notifier, notifier.interval)
    try:
        yield notifier
    finally:
        if signs is not None:
            signs.kill()


def _show_life(server: WebMeshServer, notifier: Notifier | WorkerEnd, interval: float) -> None:
    while True:
        server.in_hub(notifier.show_life)
        gevent.sleep(interval)


def _run(server: WebMeshServer, signals: StopSignals, notifier: Notifier | WorkerEnd) -> None:
    """Serve until a signal says to stop, then stop accepting and finish the calls in progress."""
    number = signals.wait()
    while number is signal.SIGHUP and server.tls is not None:
        _reload_certificates(server)
        number = signals.wait()
    logger.info("draining", extra={"signal": number.name, "connections": len(server.connections)})
    notifier.tell(STOPPING=1, STATUS="draining")
    server.close(server.timeouts.drain)
    if server.drained is False:
        logger.warning("calls were cut off: they had not ended in time", extra={"drain": server.timeouts.drain})


def _reload_certificates(server: WebMeshServer) -> None:
    try:
        server.reload_certificates()
    except ConfigurationError as error:
        logger.error("certificate not reloaded: the one before stays in use", extra={"reason": error})
    else:
        logger.info("certificate reloaded")


def _configure(server: WebMeshServer, options: ServeOptions, folder: Path) -> None:
    """Let what the command line gave override what the program set."""
    overrides: dict[str, Any] = {}
    if options.serializer is not None:
        overrides["serializer_type"] = load_serializer(options.serializer, folder)
    limits = {"connections": options.pool_size, "threads": options.threads}
    given = {name: value for name, value in limits.items() if value is not None}
    if given:
        overrides["limits"] = replace(server.limits, **given)
    if options.certfile is not None:
        from webmesh.websocket.tls import ServerTLS

        overrides["tls"] = ServerTLS(options.certfile, options.keyfile, options.client_ca)
    if options.metrics:
        overrides["metrics"] = True
    if overrides:
        server.configure(**overrides)


def _listen(server: WebMeshServer, options: ServeOptions, ticket: WorkerTicket | None) -> None:
    """Listen, or raise a ConfigurationError that says what to do."""
    handed_over = _handed_over(options) if ticket is None else ticket.fd
    sock = None if handed_over is None else inherited_socket(handed_over)
    try:
        if ticket is not None:
            server.listen(ticket.host, ticket.port or 0, sock=sock, reuse_port=True)
        else:
            server.listen(options.host, options.port, unix=options.unix, sock=sock, blocking=False)
        server.await_started(server.timeouts.start)
    except (OSError, TransportError) as error:
        server.close(0)  # joins its native thread: one that ends together with the interpreter can crash it
        raise ConfigurationError(listen_failure(options, error)) from error


def _handed_over(options: ServeOptions) -> int | None:
    """The number of the socket to take over; `None` where the server makes its own."""
    activated = activated_descriptor()
    if options.fd is not None:
        return options.fd
    return None if options.unix is not None or options.addressed else activated


def listen_failure(options: ServeOptions, error: Exception) -> str:
    """Why the address cannot be listened on, and what to do."""
    number = getattr(error, "errno", None)
    if options.unix is not None:
        return f"{options.unix} is in use by another process" if number == errno.EADDRINUSE else str(error)
    if number == errno.EADDRINUSE:
        return (
            f"port {options.port} of {options.host or 'all interfaces'} is in use: stop what listens there or take "
            "another --port (0 is any that is free)"
        )
    if number in (errno.EACCES, errno.EPERM) and options.port < PRIVILEGED_PORTS:
        return (
            f"port {options.port} is privileged: take a --port from {PRIVILEGED_PORTS} up, or give the program "
            "the right to it (CAP_NET_BIND_SERVICE)"
        )
    return str(error)


def _banner(loaded: Loaded) -> Banner:
    server = loaded.server
    return Banner(
        name=loaded.name,
        url=server.url,
        mode="patched: handlers run in greenlets" if is_patched() else "plain: handlers run in native threads",
        pid=os.getpid(),
        routes=server.routes(),
        notice=loaded.notice,
    )


def _tell_late_patch(options: ServeOptions) -> None:
    """The user's module may patch by itself; say once that it came too late for what was there before."""
    if not options.patch and is_patched():
        logger.warning(
            "the served module has monkey-patched the process after parts of it were imported: without --no-patch "
            "everything is patched from the start"
        )
