"""The API endpoints of the page, and what the page gives to whom: host names, files, logins."""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError as GradioError

from janus_app.cli import main
from janus_app.outputs.metadata import read_metadata, record_of
from janus_app.server.security import HostGuard, answers_one_person, host_rules
from tests.page_server import Served, serve, wait_until


def test_only_three_endpoints_are_public(client: Client) -> None:
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/load", "/chat", "/draw"}
    with pytest.raises(Exception, match="Invalid function index"):
        client.predict(fn_index=0)


# The parameters of each endpoint that have a flag of the same name on the command line, and the others.
FLAGS = {
    "/load": ["model", "device", "precision"],
    "/chat": ["temperature", "top_p", "max_new_tokens", "seed", "model"],
    "/draw": [
        "prompt",
        "negative",
        "count",
        "guidance",
        "temperature",
        "seed",
        "model",
        "steps",
        "solver",
        "turbo",
        "think",
        "plan",
    ],
}
OTHERS = {"/load": [], "/chat": ["message"], "/draw": ["new_seed", "guidance_start", "guidance_end", "width", "height"]}


def test_endpoint_parameters_are_named_like_the_command_line_flags(page: Served) -> None:
    """Gradio publishes the parameter names of the handlers, so they are part of the API."""
    info = httpx.get(f"{page.url}/gradio_api/info").json()
    endpoints = info["named_endpoints"]
    for endpoint, described in endpoints.items():
        names = [parameter["parameter_name"] for parameter in described["parameters"]]
        assert sorted(names) == sorted(FLAGS[endpoint] + OTHERS[endpoint])
        (row,) = re.findall(rf"^\| `{endpoint}` \| (.*) \|$", Path("docs/api.md").read_text("utf-8"), re.MULTILINE)
        assert row.replace("`", "").split(", ") == names
    assert not info["unnamed_endpoints"]
    needed = {p["parameter_name"] for p in endpoints["/draw"]["parameters"] if not p["parameter_has_default"]}
    assert needed == {"prompt"}
    for endpoint, verb in (("/load", "chat"), ("/chat", "chat"), ("/draw", "generate")):
        flags = {word.replace("-", "_") for word in re.findall(r"--([a-z-]+)", help_of(verb))}
        assert set(FLAGS[endpoint]) <= flags


def test_program_in_the_docs_runs(
    page: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", Path("docs/api.md").read_text("utf-8"), flags=re.DOTALL)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(program.replace("http://127.0.0.1:7860", page.url), names)
    assert names["answer"]["text"].strip() in capsys.readouterr().out
    pictures = [*names["drawn"]["pictures"], *names["edited"]["pictures"]]
    assert [(p["record"]["verb"], p["record"]["prompt"]) for p in pictures] == [
        *[("generate", "two green frogs")] * 2,
        ("edit", "two blue frogs"),
    ]
    assert [picture["seed"] for picture in pictures[:2]] == [7, 8]
    for picture in pictures:
        file = Path(picture["file"])
        assert picture["record"] == json.loads(json.dumps(record_of(read_metadata(file))))
        assert file.read_bytes() == (page.outputs / picture["name"]).read_bytes()


def curl(url: str, body: str | None = None, endpoint: str = "/draw") -> list[tuple[str, Any]]:
    """(event, data) of the calls that docs/api.md prints, with another body or endpoint if given."""
    blocks = re.findall(r"```bash\n(.*?)```", Path("docs/api.md").read_text("utf-8"), flags=re.DOTALL)
    (calls,) = (block for block in blocks if "gradio_api" in block)
    calls = calls.replace("http://127.0.0.1:7860", url).replace("/v2/draw", f"/v2{endpoint}")
    calls = calls.replace('{"prompt": "a red star"}', body) if body else calls
    done = subprocess.run(["bash", "-c", calls], capture_output=True, text=True, timeout=100)
    found = re.findall(r"^event: (\w+)\ndata: (.*)$", done.stdout, flags=re.MULTILINE)
    return [(event, json.loads(data)) for event, data in found if event != "heartbeat"]


def test_curl_calls_in_the_docs_stream_progress_and_end_with_the_pictures(page: Served) -> None:
    *before, (event, (result,)) = curl(page.url)
    assert {name for name, _ in before} == {"generating"} and before[0][1][0]["progress"]["stage"] == "draw"
    assert event == "complete" and [p["record"]["prompt"] for p in result["pictures"]] == ["a red star"] * 4
    served = httpx.get(result["pictures"][0]["file"]["url"])
    assert served.content == (page.outputs / result["pictures"][0]["name"]).read_bytes()


def test_load_and_chat_end_with_one_result(page: Served, client: Client) -> None:
    loaded = client.predict(model="tiny-a", device="cpu", precision="fp32", api_name="/load")
    assert loaded == {"model": "tiny-a", "precision": "fp32", "device": "cpu", "notices": []}
    job = client.submit(message={"text": "Hello", "files": []}, temperature=0, max_new_tokens=24, api_name="/chat")
    answer = job.result(timeout=60)
    texts = [output["text"] for output in job.outputs()]
    assert len(texts) > 2 and answer["text"].startswith(texts[-2]) and not answer["pictures"]
    again = client.predict(message={"text": "And now?", "files": []}, max_new_tokens=8, api_name="/chat")
    assert again["usage"]["prompt_tokens"] > answer["usage"]["prompt_tokens"] + answer["usage"]["new_tokens"]


@pytest.mark.parametrize(
    ("endpoint", "asked", "sentence"),
    [
        ("/draw", {"prompt": " "}, "The prompt is empty"),
        ("/draw", {"prompt": "a", "new_seed": False, "seed": -1}, "Seed must be"),
        ("/draw", {"prompt": "a", "count": 99}, "99"),
        ("/load", {"model": "tiny-zzz"}, "There is no model called 'tiny-zzz'"),
        ("/load", {"model": "tiny-a", "device": "abacus"}, "abacus"),
        ("/chat", {"message": {"text": "", "files": []}}, "question is empty"),
        ("/chat", {"message": {"text": "/edit a cat", "files": []}}, "no picture in this conversation"),
    ],
)
def test_refused_call_raises_the_sentence(
    page: Served, client: Client, endpoint: str, asked: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(GradioError, match=re.escape(sentence)):
        client.predict(**asked, api_name=endpoint)
    event, data = curl(page.url, json.dumps(asked), endpoint)[-1]
    assert event == "error" and sentence in data["error"] and "Traceback" not in str(data)


def test_folder_that_cannot_be_written_raises_after_a_drawing(page: Served, client: Client) -> None:
    page.outputs.mkdir(exist_ok=True)
    kept = page.outputs.rename(page.outputs.with_name("kept"))
    page.outputs.write_text("in the way")
    try:
        with pytest.raises(GradioError, match="The picture was not saved"):
            client.predict(prompt="a", count=1, api_name="/draw")
    finally:
        page.outputs.unlink()
        kept.rename(page.outputs)


def test_job_stops_when_its_client_leaves(page: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page.session, "pace", 0.1)
    asked = {"prompt": "never finished", "count": 16, "new_seed": False, "seed": 99_000}
    endpoint = f"{page.url}/gradio_api/call/v2/draw"
    with page.session.held():
        job = httpx.post(endpoint, json=asked).json()["event_id"]
        with httpx.stream("GET", f"{endpoint}/{job}") as events:
            assert any("generating" in line for line in events.iter_lines()) and page.session.state.phase == "busy"
    wait_until(lambda: page.session.state.phase == "ready")
    assert not list(page.outputs.glob("*_990*.png"))


def help_of(verb: str) -> str:
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        main([verb, "--help"])
    return said.getvalue()


def test_requests_for_other_host_names_are_refused(page: Served) -> None:
    assert httpx.get(page.url, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(page.url, headers={"Host": "127.0.0.1.evil.example"}).status_code == 400
    assert httpx.get(page.url).status_code == 200


def test_files_outside_the_served_folder_are_not_served(page: Served, client: Client) -> None:
    client.predict(prompt="a red circle", count=1, api_name="/draw")
    saved = next(page.outputs.glob("*.png"))
    for path in ("/etc/passwd", str(saved), str(Path(__file__).resolve()), "../../../../etc/passwd"):
        assert httpx.get(f"{page.url}/gradio_api/file={path}").status_code in (403, 404), path


def test_upload_above_the_limit_is_refused(page: Served) -> None:
    sent = httpx.post(f"{page.url}/gradio_api/upload", files={"files": ("big.png", b"0" * 21_000_000)}, timeout=60)
    assert sent.status_code == 413


def test_page_contains_no_foreign_url_and_no_home_folder(page: Served) -> None:
    config = httpx.get(f"{page.url}/config").text
    assert str(Path.home()) not in config
    assert "googleapis" not in httpx.get(page.url).text


def test_shared_page_requires_login_and_loads_no_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without a network the tunnel fails at once.
    monkeypatch.setattr("gradio.networking.setup_tunnel", _no_tunnel)
    with serve(tmp_path, share=True) as served:
        printed = capsys.readouterr().out
        login = re.search(r"user (\w+), password (\S+)", printed)
        assert login and "No public link" in printed
        assert httpx.get(f"{served.url}/config").status_code == 401
        key = re.search(r"/v1, key (\S+)", printed)
        assert key, "the key of the API is shown"
        for headers, status in (({}, 401), ({"authorization": f"Bearer {key[1]}"}, 200)):
            assert httpx.get(f"{served.url}/v1/models", headers=headers).status_code == status
        visitor = Client(served.url, auth=(login[1], login[2]), verbose=False)
        with pytest.raises(GradioError, match="not in the list of choices"):  # Gradio itself refuses it
            visitor.predict(model=str(tmp_path), device="cpu", api_name="/load")
        assert served.session.state.variant_id == "tiny-a"


def _no_tunnel(*args: Any, **more: Any) -> str:
    raise RuntimeError("Could not create share link. No network.")


@pytest.mark.parametrize(
    ("host", "share", "login", "expected"),
    [
        ("127.0.0.1", False, False, True),
        ("localhost", False, False, True),
        ("0.0.0.0", False, False, False),
        ("0.0.0.0", False, True, True),
        ("127.0.0.1", True, True, False),
    ],
)
def test_history_is_listed_only_for_a_single_person(host: str, share: bool, login: bool, expected: bool) -> None:
    assert answers_one_person(host, share, login) is expected


@pytest.mark.parametrize(
    ("bound", "share", "host", "allowed"),
    [
        ("127.0.0.1", False, "localhost", True),
        ("127.0.0.1", False, "::1", True),
        ("127.0.0.1", False, "192.168.1.5", False),
        ("0.0.0.0", False, "192.168.1.5", True),
        ("0.0.0.0", False, "evil.example", False),
        ("127.0.0.1", True, "abc.gradio.live", True),
        ("127.0.0.1", True, "gradio.live.evil.example", False),
    ],
)
def test_host_guard_allows_only_the_names_of_this_page(bound: str, share: bool, host: str, allowed: bool) -> None:
    assert HostGuard(None, **host_rules(bound, share)).allows(host) is allowed


def test_shared_page_shows_link_and_qr_code() -> None:
    from janus_app.ui.common.invitation import invitation, printed_invitation

    html = invitation("https://x.test/?a=1&b=2", "Open:", 'a "code"')
    assert '<a href="https://x.test/?a=1&amp;b=2">' in html and 'alt="a &quot;code&quot;"' in html
    assert 'src="data:image/svg+xml' in html
    lines = printed_invitation("https://x.test/").splitlines()
    assert lines[0] == "Shared at https://x.test/"
    assert len(lines) > 10, "the QR code is missing"
