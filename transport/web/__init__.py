"""HTTP for supervisors: the probes and the metrics of an app. It needs the extra `web`.

Start reading at `asgi.py`, which has the answers as an ASGI app. `server.py` serves them in the
tree of an app.
Imports: `inspecting`, and values.
"""

try:
    from transport.web.asgi import probes
except ImportError as error:
    raise ImportError(
        "transport.web needs the extra web: pip install 'kafka-nursery[web]'"
    ) from error

__all__ = ["probes"]
