"""Who may come in, by which doors, and what is shown to whom."""

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
from tests.page_client import draw, everything_said
from tests.page_server import Served, serve


def test_only_named_doors_are_open_to_programs(client: Client) -> None:
    named = client.view_api(return_format="dict")["named_endpoints"]
    assert set(named) == {"/load", "/chat", "/draw"}
    with pytest.raises(Exception, match="Invalid function index"):
        client.predict(fn_index=0)


# The words of a door: where the command line has a flag for it, the flag's word.
FLAGS = {
    "/load": ["model", "device", "precision"],
    "/chat": ["temperature", "top_p", "max_new_tokens", "seed", "model"],
    "/draw": ["prompt", "negative", "count", "guidance", "temperature", "seed", "model", "steps", "solver", "turbo"],
}


OWN = {"/load": [], "/chat": ["message"], "/draw": ["new_seed", "guidance_start", "guidance_end"]}


def test_doors_speak_the_words_of_the_command_line(page: Served) -> None:
    """Gradio shows programs the names of the handlers' parameters, so those are part of what the page promises."""
    info = httpx.get(f"{page.url}/gradio_api/info").json()
    doors = info["named_endpoints"]
    for door, described in doors.items():
        assert sorted(told["parameter_name"] for told in described["parameters"]) == sorted(FLAGS[door] + OWN[door])
        (row,) = re.findall(rf"^\| `{door}` \| (.*) \|$", Path("docs/programs.md").read_text("utf-8"), re.MULTILINE)
        assert row.replace("`", "").split(", ") == [told["parameter_name"] for told in described["parameters"]]
    assert not info["unnamed_endpoints"]
    needed = {told["parameter_name"] for told in doors["/draw"]["parameters"] if not told["parameter_has_default"]}
    assert needed == {"prompt"}
    for door, verb in (("/load", "chat"), ("/chat", "chat"), ("/draw", "generate")):
        flags = {word.replace("-", "_") for word in re.findall(r"--([a-z-]+)", help_of(verb))}
        assert set(FLAGS[door]) <= flags


def test_the_program_of_the_docs_runs(page: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", Path("docs/programs.md").read_text("utf-8"), flags=re.DOTALL)
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


def test_other_host_names_are_turned_away(page: Served) -> None:
    assert httpx.get(page.url, headers={"Host": "evil.example"}).status_code == 400
    assert httpx.get(page.url, headers={"Host": "127.0.0.1.evil.example"}).status_code == 400
    assert httpx.get(page.url).status_code == 200


def test_files_of_the_machine_are_not_served(page: Served, client: Client) -> None:
    draw(client, count=1, seed=9).result(timeout=60)
    saved = next(page.outputs.glob("*.png"))
    for path in ("/etc/passwd", str(saved), str(Path(__file__).resolve()), "../../../../etc/passwd"):
        assert httpx.get(f"{page.url}/gradio_api/file={path}").status_code in (403, 404), path


def test_uploads_are_bounded(page: Served) -> None:
    sent = httpx.post(f"{page.url}/gradio_api/upload", files={"files": ("big.png", b"0" * 21_000_000)}, timeout=60)
    assert sent.status_code == 413


def test_the_page_names_no_other_site_and_no_home_folder(page: Served) -> None:
    config = httpx.get(f"{page.url}/config").text
    assert str(Path.home()) not in config
    assert "googleapis" not in httpx.get(page.url).text


def test_a_shared_page_has_a_login_and_keeps_folders_closed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tunnel needs the network, so here it fails at once, as it does on a machine without one.
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
            assert "only the models of the list" in everything_said(job)
        except Exception as refused:  # Gradio may refuse a value that is no choice before we do
            assert "Traceback" not in str(refused)
        assert served.session.state.variant_id == "tiny-a"


def _no_tunnel(*args: Any, **more: Any) -> str:
    raise RuntimeError("Could not create share link. No network.")


@pytest.mark.parametrize(
    ("host", "share", "login", "listed"),
    [
        ("127.0.0.1", False, False, True),
        ("localhost", False, False, True),
        ("0.0.0.0", False, False, False),
        ("0.0.0.0", False, True, True),
        ("127.0.0.1", True, True, False),
    ],
)
def test_what_is_kept_is_listed_for_one_person_only(host: str, share: bool, login: bool, listed: bool) -> None:
    assert answers_one_person(host, share, login) is listed


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
def test_host_names(bound: str, share: bool, host: str, allowed: bool) -> None:
    assert HostGuard(None, **host_rules(bound, share)).allows(host) is allowed


def test_a_shared_page_invites_by_link_and_code() -> None:
    from janus_app.ui.common.invitation import invitation, printed_invitation

    html = invitation("https://x.test/?a=1&b=2", "Open:", 'a "code"')
    assert '<a href="https://x.test/?a=1&amp;b=2">' in html and 'alt="a &quot;code&quot;"' in html
    assert 'src="data:image/svg+xml' in html
    lines = printed_invitation("https://x.test/").splitlines()
    assert lines[0] == "Shared at https://x.test/"
    assert len(lines) > 10, "no code of blocks"
