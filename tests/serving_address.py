"""A server that really listens on this machine, in a thread."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager


@contextmanager
def listening(reader, options):
    """A real server in a thread -> (its address, the app's Server)."""
    import asyncio

    import uvicorn

    from slicesight.serving.app import create_app
    from slicesight.serving.running import listen, uvicorn_config

    app = create_app(reader, options)
    with listen(options) as socket:
        server = uvicorn.Server(uvicorn_config(app, options))
        server.install_signal_handlers = lambda: None
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[socket])))
        thread.start()
        until = time.monotonic() + 20
        while not server.started and time.monotonic() < until:
            time.sleep(0.01)
        try:
            yield f"http://127.0.0.1:{socket.getsockname()[1]}", app.state.server
        finally:
            server.should_exit = True
            thread.join(20)
