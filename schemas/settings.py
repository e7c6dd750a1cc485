"""One TOML file for every process: its sections, and how one is read.

Agents and workers read the same file, each its own section plus ``[kafka]``. A key or section
nobody knows is refused by name, so that a typo never becomes a silent default.
"""

import os
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

T = TypeVar("T")

SECTIONS = ("kafka", "collect", "stream", "store", "notify", "captures")


class SettingsError(ValueError):
    """The configuration file cannot be used; the text says which key and what to do."""


class KafkaSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the brokers are and how topics are made.

    Attributes:
        bootstrap_servers: Comma-separated ``host:port`` list.

        security_protocol: plaintext, ssl, sasl_plaintext or sasl_ssl. User and password come
            from LATENCYPRISM_KAFKA_USERNAME and LATENCYPRISM_KAFKA_PASSWORD.

        sasl_mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.

        ca_path: Certificate authority file for ssl; empty for the system's.

        partitions: Partitions of each topic that `latencyprism topics --create` makes.

        replication: Copies of each partition that it makes.
    """

    bootstrap_servers: str = "127.0.0.1:9092"
    security_protocol: Literal["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"] = "plaintext"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    ca_path: str = ""
    partitions: Annotated[int, msgspec.Meta(ge=1)] = 4
    replication: Annotated[int, msgspec.Meta(ge=1)] = 1

    def client_options(self) -> dict[str, str]:
        """Give the options that every librdkafka client of ours starts from.

        Raises:
            SettingsError: SASL is asked for and the environment has no user or password.
        """
        options = {
            "bootstrap.servers": self.bootstrap_servers,
            "security.protocol": self.security_protocol,
        }
        if self.ca_path:
            options["ssl.ca.location"] = self.ca_path
        if self.security_protocol.startswith("sasl"):
            username, password = kafka_credentials()
            options |= {
                "sasl.mechanism": self.sasl_mechanism,
                "sasl.username": username,
                "sasl.password": password,
            }
        return options


def kafka_credentials() -> tuple[str, str]:
    """Give the broker's user and password from the environment.

    Raises:
        SettingsError: One of them is missing.
    """
    names = ("LATENCYPRISM_KAFKA_USERNAME", "LATENCYPRISM_KAFKA_PASSWORD")
    values = tuple(os.environ.get(name, "") for name in names)
    if not all(values):
        raise SettingsError(
            f"[kafka] security_protocol asks for SASL: set {' and '.join(names)} in the environment"
        )
    return values[0], values[1]


def read_settings(path: Path | None) -> dict[str, Any]:
    """Read the file into its sections; no path gives no sections, so every default.

    Raises:
        SettingsError: No such file, no TOML, or a section that does not exist.
    """
    if path is None:
        return {}
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise SettingsError(
            f"cannot read {path}: {err.strerror}; copy latencyprism.example.toml to start from"
        ) from err
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as err:
        raise SettingsError(f"{path} is not TOML: {err}") from err
    for name, section in raw.items():
        if name not in SECTIONS:
            raise SettingsError(f"{path}: unknown section [{name}]; have: {', '.join(SECTIONS)}")
        if not isinstance(section, dict):
            raise SettingsError(f"{path}: {name} must be a section: write [{name}] above its keys")
    return raw


def section(settings: dict[str, Any], name: str, section_type: type[T]) -> T:
    """Convert one section to its type; a missing one gives all its defaults.

    Raises:
        SettingsError: An unknown key, a wrong type or a value out of range.
    """
    try:
        return msgspec.convert(settings.get(name, {}), section_type)
    except msgspec.ValidationError as err:
        known = ", ".join(getattr(section_type, "__struct_fields__", ()))
        raise SettingsError(f"section [{name}]: {err}; its keys are: {known}") from err
