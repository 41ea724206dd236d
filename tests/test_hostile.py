"""Attacks on a running page over HTTP. tests/browser/test_hostile.py tries those that need a browser."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError as GradioError
from PIL import Image

from janus_app.errors import AppError
from janus_app.outputs.conversation_export import export
from janus_app.outputs.conversations import ChatMessage, Conversations, new_conversation, new_id
from janus_app.server.security import VisitorLimiter, serving_folder
from tests.page_client import act, outputs_text
from tests.page_server import Served, serve, wait_until
from tests.samples import png_claiming

EVIL = "https://evil.example"
DRAW = {"prompt": "a red circle", "count": 1, "new_seed": False, "seed": 5}


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    with serve(tmp_path_factory.mktemp("page")) as served:
        yield served


@pytest.fixture
def client(page: Served) -> Client:
    return Client(page.url, verbose=False)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/config"),
        ("GET", "/gradio_api/info"),
        ("POST", "/gradio_api/upload"),
        ("POST", "/gradio_api/queue/join"),
        ("POST", "/gradio_api/call/v2/draw"),
    ],
)
def test_dns_rebinding_is_refused_on_every_path(page: Served, method: str, path: str) -> None:
    """With DNS rebinding the browser still sends the name of the attacking site in the Host header."""
    headers = {"Host": "evil.example", "Origin": "http://evil.example"}
    answer = httpx.request(method, page.url + path, headers=headers, json=DRAW if method == "POST" else None)
    assert answer.status_code == 400 and "does not answer to the host name evil.example" in answer.text


def test_other_origins_can_neither_call_nor_read(page: Served) -> None:
    endpoint = f"{page.url}/gradio_api/call/v2/draw"
    asked = {"Origin": EVIL, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    allowed = httpx.options(endpoint, headers=asked).headers.get("access-control-allow-origin")
    assert allowed not in ("*", EVIL)
    # A form of another site can send these types without a preflight request; none may be read as JSON.
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        sent = httpx.post(endpoint, content=json.dumps(DRAW), headers={"Origin": EVIL, "Content-Type": kind})
        assert sent.status_code in (415, 422) and "event_id" not in sent.text


def test_files_of_the_machine_cannot_be_read(page: Served) -> None:
    """Neither by URL nor as a picture of a question."""
    (saved := page.outputs / "mine.png").parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8), "red").save(saved)
    talk = new_conversation().with_message(ChatMessage(new_id(), "", "user", "secret"))
    Conversations(page.data / "conversations").save(talk)
    secret = page.data / "conversations" / talk.id / "conversation.json"
    assert secret.is_file()
    for path in (saved, secret, Path("/etc/passwd"), Path(__file__).resolve()):
        for spelled in (str(path), str(path).replace("/", "%2f"), f"{serving_folder()}/../../{path}"):
            got = httpx.get(f"{page.url}/gradio_api/file={spelled}")
            assert got.status_code in (400, 403, 404), spelled
        for file in ({"path": str(path), "meta": {"_type": "gradio.FileData"}}, str(path)):
            endpoint = f"{page.url}/gradio_api/call/v2/chat"
            asked = httpx.post(endpoint, json={"message": {"text": "What is it?", "files": [file]}})
            heard = httpx.get(f"{endpoint}/{asked.json()['event_id']}", timeout=60).text
            assert "event: error" in heard and "event: complete" not in heard and path.name not in heard
    for url in (f"{page.url}/config", "http://169.254.169.254/", "file:///etc/passwd"):
        got = httpx.get(f"{page.url}/gradio_api/file={url}")
        assert got.status_code in (400, 403, 404) and "components" not in got.text, url


@pytest.mark.parametrize(
    "name", ["../../up.png", "..\\..\\up.png", "/tmp/up.png", "a\0b.png", "x" * 300 + ".png", ".png"]
)
def test_upload_name_cannot_choose_a_folder(page: Served, name: str, tmp_path: Path) -> None:
    Image.new("RGB", (4, 4), "red").save(picture := tmp_path / "picture.png")
    before = set(Path("/tmp").glob("up.png"))
    sent = httpx.post(f"{page.url}/gradio_api/upload", files={"files": (name, picture.read_bytes())})
    if sent.status_code != 200:
        assert sent.status_code in (400, 413, 422)
        return
    (place,) = sent.json()
    assert Path(place).resolve().is_relative_to(serving_folder())
    assert set(Path("/tmp").glob("up.png")) == before


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("page.html", "<script>alert(1)</script>"),
        ("drawing.svg", '<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'),
        ("page.xhtml", '<html xmlns="http://www.w3.org/1999/xhtml"><script>alert(1)</script></html>'),
    ],
)
def test_uploaded_html_is_never_rendered(page: Served, name: str, content: str) -> None:
    (place,) = httpx.post(f"{page.url}/gradio_api/upload", files={"files": (name, content)}).json()
    got = httpx.get(f"{page.url}/gradio_api/file={place}")
    assert got.status_code in (403, 404) or got.headers.get("content-disposition", "").startswith("attachment")


def test_unusable_uploads_are_refused_and_the_page_keeps_working(page: Served, client: Client, tmp_path: Path) -> None:
    (bomb := tmp_path / "bomb.png").write_bytes(png_claiming(60_000, 60_000))
    (cut := tmp_path / "cut.png").write_bytes(png_claiming(64, 64))
    (not_a_picture := tmp_path / "letter.png").write_text("Dear sir,")
    for file in (bomb, cut, not_a_picture):
        with pytest.raises(GradioError) as refused:
            client.predict(message={"text": "What is it?", "files": [handle_file(str(file))]}, api_name="/chat")
        assert "Traceback" not in str(refused.value), file.name
    assert client.predict(**DRAW, model="tiny-a", api_name="/draw")["pictures"]
    assert list(page.outputs.glob("*_5.png"))


def test_conversation_title_cannot_choose_a_path(tmp_path: Path) -> None:
    for title in ("../../evil", "/etc/passwd", "..", "CON:", "a\0b", "<script>alert(1)</script>", "名字/../x"):
        talk = new_conversation().with_message(ChatMessage(new_id(), "", "user", title))
        for kind in ("md", "json"):
            file = export(talk, kind, tmp_path / "exports")
            assert file.parent == tmp_path / "exports" and re.fullmatch(r"[\w\- ]+\.(md|json)", file.name), title
    assert [file.name for file in tmp_path.iterdir()] == ["exports"]


def no_tunnel(*args: Any, **more: Any) -> str:
    raise RuntimeError("Could not create share link. No network.")


def test_visitor_of_shared_page_gets_at_most_three_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio.networking.setup_tunnel", no_tunnel)
    login = ("guest", "a long password")
    with serve(tmp_path, share=True, auth=login) as served:
        greedy, other = (Client(served.url, auth=login, verbose=False) for _ in range(2))
        with served.session.held():
            many = [greedy.submit(**DRAW | {"seed": 10 * n}, model="tiny-a", api_name="/draw") for n in range(8)]
            one = other.submit(**DRAW | {"seed": 900}, model="tiny-a", api_name="/draw")
            wait_until(lambda: sum(job.done() for job in many) == 5 and served.session.state.queue == 3)
        refused = [job for job in (*many, one) if "3 jobs on this shared page already" in str(job.exception(60))]
        assert one not in refused and len(refused) == 5
        drawn = {int(file.stem.rpartition("_")[2]) for file in served.outputs.glob("*.png")}
        assert 900 in drawn and len(drawn) == 4
        greedy.predict(**DRAW | {"seed": 901}, model="tiny-a", api_name="/draw")
        assert list(served.outputs.glob("*_901.png")), "the slots were not freed"


def test_loads_and_comparisons_of_a_shared_page_take_slots_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gradio.networking.setup_tunnel", no_tunnel)
    login = ("guest", "a long password")
    with serve(tmp_path, share=True, auth=login) as served:
        visitor = Client(served.url, auth=login, verbose=False)
        act(visitor, "tab-compare", "select").result(timeout=60)  # lists the models
        sides = {"side_a_model": "tiny-a", "side_b_model": "tiny-b", "compare_prompt": "a"}
        act(visitor, "side-b-model", "input", side_b_model="tiny-b").result(timeout=60)  # the ranges of its settings
        with served.session.held():
            waiting = [visitor.submit(**DRAW, model="tiny-a", api_name="/draw") for _ in range(3)]
            wait_until(lambda: served.session.state.queue == 2)
            for submit in (  # one after another: of a load and an unload in one tab, the newest alone goes on
                lambda: act(visitor, "compare-run", **sides),
                lambda: act(visitor, "model-list", model_variant="tiny-b"),
                lambda: act(visitor, "model-unload"),
                lambda: visitor.submit(model="tiny-b", api_name="/load"),
            ):
                refused = submit()
                heard = str(refused.exception(60)) + outputs_text(refused)
                assert "3 jobs on this shared page already" in heard
        assert [job.exception(60) for job in waiting] == [None] * 3


def test_limiter_bounds_each_visitor_and_the_sum() -> None:
    limiter = VisitorLimiter(per_visitor=2, total=3)
    with ExitStack() as slots:
        for visitor in ("a", "a", "b"):
            slots.enter_context(limiter.slot(visitor))
        with pytest.raises(AppError, match="You have 2 jobs"):
            slots.enter_context(limiter.slot("a"))
        with pytest.raises(AppError, match="Too many jobs"):
            slots.enter_context(limiter.slot("c"))
    with limiter.slot("c"):
        pass


# Paths that answer without a login: the login itself, styles and icons, liveness, and endpoints that act only on a
# session whose secret id the caller must know.
OPEN = re.compile(
    r"/|/login/?|/logout|/theme.css|/favicon.ico|/robots.txt|/manifest.json|/pwa_icon(/x)?"
    r"|/gradio_api/(user|token|app_id|theme.css|startup-events|heartbeat/x|cancel|reset|stream/x.*|custom_component/.*)/?"
)


def endpoints(routes: Any, before: str = "") -> Iterator[tuple[str, str]]:
    """(method, path) of every route, including those of included routers."""
    for route in routes:
        inner = getattr(route, "original_router", None)
        if inner is not None:
            yield from endpoints(inner.routes, before)
        elif hasattr(route, "path"):
            for method in sorted((getattr(route, "methods", None) or set()) - {"HEAD", "OPTIONS"}):
                yield method, before + re.sub(r"{[^}]*}", "x", route.path)


def test_every_endpoint_requires_login(page: Served, tmp_path: Path) -> None:
    with serve(tmp_path, auth=("guest", "a long password")) as served:
        closed = set()
        for method, path in endpoints(served.demo.app.routes):
            body = {"prompt": "x", "code": "x", "hash": "x"}
            with httpx.stream(method, served.url + path, json=body, timeout=60) as answer:  # event streams never end
                if answer.status_code in (401, 403):
                    closed.add(path)
                else:
                    assert OPEN.fullmatch(path) or answer.status_code == 404, f"{method} {path} {answer.status_code}"
        assert {"/config", "/gradio_api/info", "/gradio_api/upload", "/gradio_api/queue/join"} <= closed
        assert {f"/gradio_api/{path}" for path in ("call/x", "call/v2/x", "run/x", "file=x", "queue/data")} <= closed
        for query in ("", "?all_endpoints=true"):
            login = httpx.get(served.url + query).text
            assert '"auth_required":true' in login and "tiny-a" not in login and "named_endpoints" not in login
    assert "named_endpoints" in httpx.get(page.url).text, "without a login the list must be there"
