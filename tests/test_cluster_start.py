"""What a cluster is started with, and what is said where it cannot be. No test here has Ray."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

import app
from janus_app.cli import _parse, main
from janus_app.cli.cluster import private_address
from janus_app.cluster.ray_serve import SLOT, RayServe, environment, room
from janus_app.errors import AppError

ROOT = Path(__file__).parent.parent


def test_a_cluster_with_cards_draws_on_them_and_one_without_on_its_slots() -> None:
    assert room({"GPU": 3.0, SLOT: 2.0, "CPU": 64.0}) == (3, {"num_cpus": 0, "num_gpus": 1})
    assert room({SLOT: 2.0, "CPU": 64.0}) == (2, {"num_cpus": 0, "resources": {SLOT: 1}})
    assert room({"CPU": 64.0})[0] == 0


def test_ray_is_told_to_use_the_loopback_address_alone_unless_another_one_is_named() -> None:
    assert environment(2)["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "0"
    assert environment(2, "10.0.0.1")["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"
    assert environment(2)["RAY_USAGE_STATS_ENABLED"] == "0" and environment(2)["RAY_AUTH_MODE"] == "token"


def test_the_package_is_loaded_only_by_who_asks_for_a_cluster() -> None:
    from tests.test_architecture import modules_loaded_by

    modules = modules_loaded_by("import app, janus_app.cli, janus_app.ui.app, janus_app.cluster.session")
    assert "ray" not in modules


def test_requirements_name_the_bounds_of_the_package() -> None:
    assert "ray[serve]>=" in (ROOT / "requirements-cluster.txt").read_text("utf-8")


@pytest.fixture
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)


@pytest.mark.parametrize("command", (["cluster", "head"], ["cluster", "join", "10.0.0.1:6379"], ["cluster", "stop"]))
def test_without_the_package_a_command_says_how_to_install_it(
    without_ray: None, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command) == 1
    assert "python -m pip install -r requirements-cluster.txt" in capsys.readouterr().err


def test_without_the_package_the_page_says_how_to_install_it(without_ray: None) -> None:
    with pytest.raises(AppError) as failure, app.open_cluster("local:2"):
        pass
    assert failure.value.code == "cluster_packages_missing"


@pytest.mark.parametrize("address", ("local:", "local:0", "local:many", "local:65"))
def test_a_count_of_replicas_that_makes_no_sense_is_refused(address: str) -> None:
    with pytest.raises(AppError) as failure:
        RayServe(address)
    assert failure.value.code == "cluster_count_malformed"


@pytest.mark.parametrize(
    ("host", "code"),
    (("0.0.0.0", "cluster_host_public"), ("8.8.8.8", "cluster_host_public"), ("name", "cluster_host_malformed")),
)
def test_a_cluster_listens_only_where_strangers_do_not_come(host: str, code: str) -> None:
    with pytest.raises(AppError) as failure:
        private_address(host)
    assert failure.value.code == code
    assert private_address("10.0.0.1") == "10.0.0.1" and private_address("127.0.0.1") == "127.0.0.1"


@pytest.mark.parametrize("page", ("cluster.md", "cluster.zh-CN.md"))
def test_the_commands_of_the_page_are_commands_of_the_app(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (ROOT / "docs" / page).read_text("utf-8").splitlines()
    commands = [line for line in lines if line.startswith("python ") and "pip" not in line]
    assert len(commands) == 4
    for line in commands:
        words = shlex.split(line)
        if words[1] == "app.py":
            monkeypatch.setattr(sys, "argv", words[1:])
            assert app.parse().cluster
        else:
            assert _parse(words[3:]).action in ("head", "join")
