"""The API endpoints of the page, and what the page gives to whom: host names, files, logins."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client
from PIL import Image

from janus_app.cli import main
from janus_app.outputs.metadata import read_metadata
from janus_app.server.security import HostGuard, answers_one_person, host_rules
from tests.page_client import draw, outputs_text
from tests.page_server import Served, serve


def test_only_three_endpoints_are_public(client: Client) -> None:
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/load", "/chat", "/draw"}
    with pytest.raises(Exception, match="Invalid function index"):
        client.predict(fn_index=0)


# The parameters of each endpoint that have a flag of the same name on the command line, and the others.
FLAGS = {
    "/load": ["model", "device", "precision"],
    "/chat": ["temperature", "top_p", "max_new_tokens", "seed", "model"],
    "/draw": ["prompt", "negative", "count", "guidance", "temperature", "seed", "model", "steps", "solver", "turbo"],
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


def test_program_in_the_docs_runs(page: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", Path("docs/api.md").read_text("utf-8"), flags=re.DOTALL)
    Image.new("RGB", (40, 30), "green").save(tmp_path / "frogs.png")
    monkeypatch.chdir(tmp_path)
    kept = set(page.outputs.glob("*.png"))
    exec(program.replace("http://127.0.0.1:7860", page.url), {})
    made = sorted(
        (read_metadata(file) for file in set(page.outputs.glob("*.png")) - kept), key=lambda r: (r.verb, r.seed)
    )
    assert [(r.verb, r.prompt) for r in made] == [("edit", "two blue frogs"), *[("generate", "two green frogs")] * 2]
    assert [r.seed for r in made[1:]] == [7, 8]


def help_of(verb: str) -> str:
    with pytest.raises(SystemExit), contextlib.redirect_stdout(io.StringIO()) as said:
        main([verb, "--help"])
    return said.getvalue()


def test_requests_for_other_host_names_are_refused(page: Served) -> None:
    assert httpx.get(page.url, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(page.url, headers={"Host": "127.0.0.1.evil.example"}).status_code == 400
    assert httpx.get(page.url).status_code == 200


def test_files_outside_the_served_folder_are_not_served(page: Served, client: Client) -> None:
    draw(client, count=1, seed=9).result(timeout=60)
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
        visitor = Client(served.url, auth=(login[1], login[2]), verbose=False)
        job = visitor.submit(model=str(tmp_path), device="cpu", api_name="/load")
        try:
            job.result(timeout=30)
            assert "only the models of the list" in outputs_text(job)
        except Exception as refused:  # Gradio itself may refuse a value that is not in the list
            assert "Traceback" not in str(refused)
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
