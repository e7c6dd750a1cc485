from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from schemas.settings import SECTIONS, KafkaSettings, SettingsError, read_settings, section


def written(folder: Path, text: str) -> Path:
    path = folder / "latencyprism.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refused(folder: Path, text: str) -> str:
    with pytest.raises(SettingsError) as caught:
        section(read_settings(written(folder, text)), "kafka", KafkaSettings)
    return str(caught.value)


def test_no_file_gives_every_default() -> None:
    assert section(read_settings(None), "kafka", KafkaSettings) == KafkaSettings()


def test_what_the_file_says_replaces_the_default(tmp_path: Path) -> None:
    path = written(tmp_path, '[kafka]\nbootstrap_servers = "kafka:9092"\n')
    found = section(read_settings(path), "kafka", KafkaSettings)
    assert found == msgspec.structs.replace(KafkaSettings(), bootstrap_servers="kafka:9092")


def test_an_unknown_key_is_named_with_the_keys_there_are(tmp_path: Path) -> None:
    reason = refused(tmp_path, '[kafka]\nbootstrap_server = "kafka:9092"\n')
    assert reason.startswith("section [kafka]: Object contains unknown field `bootstrap_server`")
    assert reason.endswith(", ".join(KafkaSettings.__struct_fields__))


def test_an_unknown_section_is_named_with_the_sections_there_are(tmp_path: Path) -> None:
    reason = refused(tmp_path, "[kafak]\npartitions = 4\n")
    assert reason.endswith(f"unknown section [kafak]; have: {', '.join(SECTIONS)}")


def test_a_value_of_the_wrong_type_is_named(tmp_path: Path) -> None:
    reason = refused(tmp_path, '[kafka]\npartitions = "four"\n')
    assert "Expected `int`, got `str` - at `$.partitions`" in reason


def test_a_key_above_all_sections_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, "kafka = 3\n").endswith("write [kafka] above its keys")


def test_a_missing_file_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"nowhere\.toml: No such file.*copy latencyprism\.ex"):
        read_settings(tmp_path / "nowhere.toml")


@pytest.mark.parametrize("content", [b"[kafka", b"\xff\xfe"])
def test_a_file_that_is_no_toml_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.toml"
    path.write_bytes(content)
    with pytest.raises(SettingsError, match=r"broken\.toml is not TOML"):
        read_settings(path)


def test_sasl_asks_for_user_and_password_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = KafkaSettings(security_protocol="sasl_ssl")
    monkeypatch.setenv("LATENCYPRISM_KAFKA_USERNAME", "someone")
    monkeypatch.delenv("LATENCYPRISM_KAFKA_PASSWORD", raising=False)
    with pytest.raises(SettingsError, match="LATENCYPRISM_KAFKA_PASSWORD in the environment"):
        settings.client_options()
    monkeypatch.setenv("LATENCYPRISM_KAFKA_PASSWORD", "hidden")
    options = settings.client_options()
    assert (options["sasl.username"], options["sasl.password"]) == ("someone", "hidden")


def test_a_plain_connection_carries_no_credentials() -> None:
    assert KafkaSettings().client_options() == {
        "bootstrap.servers": "127.0.0.1:9092",
        "security.protocol": "plaintext",
    }
