"""Section [notify]: what is refused, and what to do then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from schemas.settings import SettingsError, read_settings, section
from streams.delivery import Deliveries, NotifySettings
from streams.delivery.payloads import available
from streams.delivery.settings import SIGNING_SECRET


def read(folder: Path, text: str) -> NotifySettings:
    path = folder / "latencyprism.toml"
    path.write_text(f"[notify]\nspool_folder = '{folder}/spool'\n{text}")
    return section(read_settings(path), "notify", NotifySettings)


def deliveries(folder: Path, text: str, **environment: str) -> Deliveries:
    return Deliveries(read(folder, text), lambda *_: None, environment)


ONE = "[[notify.destinations]]\nname = 'one'\n"
MISTAKES = {
    "urls = ''": "urls",
    f"{ONE}knid = 'slack'": "knid",
    "[[notify.destinations]]\nkind = 'slack'": "name",
    "[[notify.destinations]]\nname = '../up'": "destinations",
    f"{ONE}severities = ['sev1']": "severities",
    f"{ONE}spool_mib = 0": "spool_mib",
    "timeout_seconds = 0": "timeout_seconds",
}


@pytest.mark.parametrize(("text", "told"), MISTAKES.items(), ids=range(len(MISTAKES)))
def test_a_mistake_is_refused_by_its_name(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        read(tmp_path, text)


HOST = "url = 'https://chat.example/'"
UNUSABLE: dict[str, str] = {
    f"{ONE}{HOST}\n{ONE}{HOST}": "more than one with the name 'one'",
    f"url = 'https://h/'\n[[notify.destinations]]\nname = 'default'\n{HOST}": "'default'",
    f"{ONE}kind = 'teams'\n{HOST}": "unknown kind of receiver 'teams'; have: alertmanager",
    ONE: "the url of 'one' begins with ''",
    f"{ONE}{HOST}\nurl_env = 'X'": "take one of them out",
    f"{ONE}url_env = 'NOT_SET'": "wants the environment variable NOT_SET",
    f"{ONE}{HOST}\nsecret_env = 'NOT_SET'": "wants the environment variable NOT_SET",
    f"{ONE}kind = 'alertmanager_api'\n{HOST}\nsecret_env = 'TWO_LINES'": "TWO_LINES is not one",
    f"{ONE}url_env = 'TWO_LINES'": "TWO_LINES is not one",
    f"{ONE}kind = 'pagerduty'": "has no key: set its secret_env",
    f"{ONE}url = 'http://127.0.0.1/'": "set allow_private = true",
    "url = 'http://[::1]/'": r"\[notify\] url names ::1, .*set allow_private = true",
    "url = 'ftp://h/'": r"\[notify\] url begins with 'ftp'",
}


@pytest.mark.parametrize(("text", "told"), UNUSABLE.items(), ids=range(len(UNUSABLE)))
def test_what_cannot_work_is_refused_at_the_start_with_what_to_do(
    tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        deliveries(tmp_path, text, TWO_LINES="hidden\r\nX-Evil: 1")
    assert "hidden" not in str(caught.value)


def test_without_a_destination_nothing_is_made(tmp_path: Path) -> None:
    found = deliveries(tmp_path, "")
    assert found.counts() == {}
    found.stop()
    assert not (tmp_path / "spool").exists()


def test_every_kind_can_be_configured(tmp_path: Path) -> None:
    tables = "\n".join(
        f"[[notify.destinations]]\nname = '{kind}'\nkind = '{kind}'\n{HOST}\nsecret_env = 'KEY'"
        for kind in available()
    )
    found = deliveries(tmp_path, tables, KEY="the-key")
    assert set(found.counts()) == set(available())
    found.stop()


def test_the_legacy_url_is_signed_where_the_secret_is_set() -> None:
    settings = NotifySettings(url="https://h/", give_up_seconds=7.0)
    [with_secret] = settings.all_destinations({SIGNING_SECRET: "s"})
    [without] = settings.all_destinations({})
    assert (with_secret.secret_env, without.secret_env) == (SIGNING_SECRET, "")
    assert without.max_age_seconds == 7.0


def test_a_destination_that_is_no_more_and_left_something_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    left: Any = tmp_path / "spool" / "old"
    left.mkdir(parents=True)
    (left / "000000000.log").write_text("")
    deliveries(tmp_path, f"{ONE}{HOST}").stop()
    assert "for 'old', which is no destination any more" in caplog.text
