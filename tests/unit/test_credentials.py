"""Secrets in URIs: they are refused by name before anything is written, and no message shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

import alray
from alray import RunConfig, replace, run
from alray.cli import main
from alray.config import ConfigError
from alray.config.fields import validated
from alray.credentials import has_credentials, redacted
from alray.data.catalog import index
from alray.data.sources.scan import CatalogError
from alray.prepare import check
from alray.store import Store, StoreError, filesystem
from alray.sweep import SweepError, plan
from alray.sweep.tracking import mlflow_callback
from alray.tracking import TrackingError

SECRET = "wJalrXUtnFEMI"
WITH_SECRET = [
    f"s3://AKIAEXAMPLE:{SECRET}@bucket/a",
    f"s3://AKIAEXAMPLE:{SECRET}/bPxRfi@bucket/a",  # a secret with a slash that is not escaped
    f"s3://AKIAEXAMPLE:ab/{SECRET}",
    f"https://user:{SECRET}@host/data",
    f"https://{SECRET}@host:8080/data",
    f"https://host/x.png?size=3&X-Amz-Signature={SECRET}",
    f"https://host/x.png?token={SECRET}",
    f"https://account.blob/x?sv=2024&sig={SECRET}",
    f"gs://bucket/a?access_token={SECRET}",
    f"simplecache::https://user:{SECRET}@host/a",
    f"sftp://user:{SECRET}@host/a",
]
WITHOUT = [
    "s3://bucket/folder", "s3://bucket/a@b:c/d", "gs://bucket/a?b", "hdfs://host:8020/a", "https://[::1]:80/a",
    "abfs://container@account.dfs.core.windows.net/a", "sftp://user@host/a", "hf://datasets/user/repo@main/x",
    "https://host/x.png?size=3", "/data/a:b@c", "file:///data/a:b@c?token=1", "s3://bucket/monkey=1", "runs",
]  # fmt: skip


@pytest.mark.parametrize("uri", WITH_SECRET)
def test_a_secret_is_found_and_hidden(uri: str) -> None:
    assert has_credentials(uri)
    shown = redacted(f"{uri}: no such file, got ['{uri}']")
    assert SECRET not in shown and "AKIA" not in shown
    assert "no such file" in shown and "***" in shown
    assert redacted(shown) == shown


@pytest.mark.parametrize("uri", WITHOUT)
def test_other_places_stay_as_they_are(uri: str) -> None:
    assert not has_credentials(uri)
    assert redacted(f"{uri}: no such file") == f"{uri}: no such file"


@pytest.mark.parametrize("uri", WITH_SECRET)
@pytest.mark.parametrize(
    "field", ["root", "run_dir", "data.root", "data.catalog", "data.mask_root", "model.checkpoint"]
)
def test_a_run_refuses_it_by_name(field: str, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = replace(RunConfig(), {field: uri})
    with pytest.raises(ConfigError, match=rf"(?s)^{field}: expected no credentials.*AWS_ACCESS_KEY_ID") as error:
        check(config)
    assert SECRET not in str(error.value)
    with pytest.raises(ConfigError):
        run(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("uri", WITH_SECRET)
@pytest.mark.parametrize(
    "argv",
    [
        ["index", "{}", "--out", "c"], ["index", "images", "--out", "{}"], ["index", "images", "--out={}"],
        ["select", "random", "3", "--embedding", "{}", "--out", "p.csv"], ["select", "random", "3", "--out", "{}"],
        ["run", "imagenet_base", "--data.root", "{}"], ["run", "imagenet_base", "{}"], ["report", "{}"],
        ["repack", "{}", "--out", "t"], ["sweep", "imagenet_base", "seed=0..1", "--root", "{}"],
        ["sweep", "imagenet_base", "data.root=[\"{}\"]"], ["run", "{}"],
    ],
)  # fmt: skip
def test_no_command_writes_or_shows_it(
    argv: list[str], uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as left:
        main([text.replace("{}", uri) for text in argv])
    said = capsys.readouterr()
    assert left.value.code == 2
    assert SECRET not in said.out + said.err
    assert "***" in said.err
    assert list(tmp_path.iterdir()) == []


def test_python_refuses_it_wherever_a_place_is_given(tmp_path: Path) -> None:
    uri = WITH_SECRET[0]
    for call in (
        lambda: Store(uri).has("x"),
        lambda: filesystem(uri),
        lambda: alray.select("random", 1, embedding=f"{uri}/e.npy"),
        lambda: index(uri, str(tmp_path / "catalog")),
        lambda: index(str(tmp_path), uri),
        lambda: plan(replace(RunConfig(), {"root": str(tmp_path)}), {"data.root": [uri]}),
    ):
        with pytest.raises((StoreError, ConfigError, CatalogError, SweepError), match="credentials") as error:
            call()
        assert SECRET not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_with_secrets_makes_no_catalog(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_text(f"uri,label\n{WITH_SECRET[5]},a\n")
    with pytest.raises(CatalogError, match="expected URIs without credentials, got https://host/x.png") as error:
        index(str(tmp_path / "m.csv"), str(tmp_path / "catalog"))
    assert SECRET not in str(error.value)
    assert not (tmp_path / "catalog" / "meta.json").exists()


def test_a_message_about_another_field_does_not_show_it() -> None:
    with pytest.raises(ConfigError) as error:
        validated(RunConfig, {"data": {"root": WITH_SECRET[0], "format": WITH_SECRET[0]}})
    assert SECRET not in str(error.value)


@pytest.mark.parametrize("uri", [f"http://user:{SECRET}@127.0.0.1:9/", f"http://127.0.0.1:9/?token={SECRET}"])
def test_mlflow_messages_hide_it(uri: str) -> None:
    pytest.importorskip("mlflow")
    with pytest.raises(TrackingError, match=r"no server answers at 'http://.*\*\*\*") as error:
        mlflow_callback(uri, "name")
    assert SECRET not in str(error.value)
