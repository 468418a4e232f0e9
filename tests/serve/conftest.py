"""A service over a finished run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files

import pytest
import uvicorn
from fastapi.responses import HTMLResponse
from fastapi.testclient import TestClient

from llamarec.cli.serve import listen
from llamarec.recommend.recommender import Recommender
from llamarec.serve.app import create_app
from llamarec.serve.limits import Limits
from tests.recommend.conftest import experiment, finished, recommender

__all__ = ["experiment", "finished", "recommender"]


@pytest.fixture(scope="session")
def client(recommender: Recommender) -> Iterator[TestClient]:
    with TestClient(create_app(recommender, Limits(max_k=50, max_history=60))) as client:
        yield client


# What is asked is written into the page's own title, which --dump-dom prints.
_MEASURE = """<script>
setInterval(() => { if (document.body.dataset.ready) document.title = JSON.stringify({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  width: document.documentElement.clientWidth,
  paper: getComputedStyle(document.body).backgroundColor,
}); }, 50);
</script></body>"""


@contextmanager
def serving(recommender: Recommender) -> Iterator[str]:
    """The address of a service in a thread of this process; /measured is its page, which tells its size."""
    app = create_app(recommender, Limits(max_k=50, max_history=60))
    page = files("llamarec.serve").joinpath("page.html").read_text(encoding="utf-8").replace("</body>", _MEASURE)
    app.get("/measured", include_in_schema=False)(lambda: HTMLResponse(page))
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join()
    listening.close()


@pytest.fixture(scope="session")
def address(recommender: Recommender) -> Iterator[str]:
    with serving(recommender) as address:
        yield address
