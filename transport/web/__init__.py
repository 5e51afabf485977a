"""HTTP for people and supervisors: the page, the probes and the metrics of an app.

It needs the extra `web`. Start reading at `asgi.py`, which has the probes as an ASGI app. `page.py`
has the page, its files are in `files/`, and `guard.py` decides which programs see it. `server.py`
serves all of it in the tree of an app.
Imports: `inspecting`, and values.
"""

try:
    from transport.web.asgi import probes
    from transport.web.page import page
except ImportError as error:
    raise ImportError(
        "transport.web needs the extra web: pip install 'kafka-nursery[web]'"
    ) from error

from transport.inspecting.recent_events import RecentEvents

__all__ = ["RecentEvents", "page", "probes"]
