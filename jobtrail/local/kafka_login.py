"""Authentication at the Kafka that `jobtrail up` runs: the password, and its file.

Every user of the machine can connect to the loopback, so Kafka requires a password. It is made at
the broker's first start and stored in a file in Kafka's own format, which Kafka's tools can use,
and which only its owner may access. The mechanism proves that both sides know the password without
sending it: a program that listens in Kafka's place learns nothing, and no client accepts it.
"""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Any, Final, NamedTuple

from jobtrail.core.errors import NotRunning
from jobtrail.setting_fields import Secret

#: The broker's folder in the data folder of a local service.
FOLDER: Final = "broker"
#: In the broker's folder.
FILE: Final = "client.properties"
USER: Final = "jobtrail"
PROTOCOL: Final = "SASL_PLAINTEXT"
MECHANISM: Final = "SCRAM-SHA-512"
_PASSWORD: Final = re.compile(
    rf'^sasl\.jaas\.config=.*\busername="{USER}" password="([\w-]{{32,}})";$', re.MULTILINE
)


class Login(NamedTuple):
    """A client's user and password."""

    username: str
    password: str

    @property
    def overrides(self) -> dict[str, Any]:
        """The settings of a client of the local Kafka."""
        return {
            "security_protocol": PROTOCOL,
            "sasl_mechanism": MECHANISM,
            "sasl_username": self.username,
            "sasl_password": Secret(self.password),
            "ssl_cafile": None,
        }


def new_login() -> Login:
    """Make a random password."""
    return Login(USER, secrets.token_urlsafe(32))


def properties_of(login: Login, servers: str) -> str:
    """Return the content of the file: a configuration of Kafka's own clients.

    Args:
        login: The user and password.
        servers: Where Kafka listens, `host:port`.
    """
    module = "org.apache.kafka.common.security.scram.ScramLoginModule"
    return (
        "# For Kafka's own tools and other Java clients. Clients of other kinds take the same\n"
        "# protocol and mechanism, and the user and password of the last line.\n"
        f"bootstrap.servers={servers}\n"
        f"security.protocol={PROTOCOL}\n"
        f"sasl.mechanism={MECHANISM}\n"
        f"sasl.jaas.config={module} required "
        f'username="{login.username}" password="{login.password}";\n'
    )


def read_login(file: Path) -> Login | None:
    """Read the login of the local Kafka; None where there is no file.

    Args:
        file: `client.properties` in the broker's folder.

    Raises:
        OSError: It can't be read.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    found = _PASSWORD.search(text)
    return Login(USER, found[1]) if found else None


def login_of(file: Path) -> Login:
    """Return the same, for a client that needs it.

    Raises:
        NotRunning: There is no file, or this user may not read it.
    """
    try:
        login = read_login(file)
        found = "no file with a password"
    except OSError as error:
        login, found = None, error.strerror or repr(error)
    if login is None:
        raise NotRunning(
            "The password of the local Kafka can't be read.",
            where=str(file),
            found=found,
            hint="Run this as the user who runs `jobtrail up`; if it is that user, restart "
            "`jobtrail up`.",
        )
    return login
