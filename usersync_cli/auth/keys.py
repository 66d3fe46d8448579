"""The keys that encrypt tokens at rest: AES-256-GCM, bound to the row and column that they stand in.

The first key encrypts, all of them decrypt: a new one is put in front, and the old one stays until every token was refreshed.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from usersync_cli.errors import ConfigError

VARIABLE = "USERSYNC_KEYS"
MAKE = """printf 'USERSYNC_KEYS=k1:%s\\n' "$(head -c 32 /dev/urandom | base64)\""""
_BYTES = 32
_NONCE = 12
_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,40}")
_FORM = f"{VARIABLE} must be ID:KEY,ID:KEY,...: the first encrypts, all decrypt; a key is 32 bytes in base64"


@dataclass(frozen=True)
class Keys:
    """Keys by their id; the first one encrypts."""

    by_id: Mapping[str, bytes] = field(repr=False)

    @property
    def first(self) -> str:
        return next(iter(self.by_id))

    def encrypt(self, text: str, source: str, account: str, column: str) -> bytes:
        """Nonce and ciphertext, by the first key."""
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        nonce = os.urandom(_NONCE)
        bound = _bound(source, account, column, self.first)
        return nonce + AESGCM(self.by_id[self.first]).encrypt(nonce, text.encode(), bound)

    def decrypt(self, sealed: bytes, source: str, account: str, column: str, key_id: str) -> str:
        """The text. Raises ConfigError for an unknown key, and for what was not encrypted by it for this place."""
        from cryptography.exceptions import InvalidTag
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM

        again = f"or authorise again: usersync oauth-url --source {source}"
        if key_id not in self.by_id:
            raise ConfigError(
                f"the token of {source} is encrypted with key {key_id}, which is not among {', '.join(self.by_id)}",
                hint=f"add it again at the end of {VARIABLE}, {again}",
            )
        nonce, rest = bytes(sealed[:_NONCE]), bytes(sealed[_NONCE:])
        try:
            return AESGCM(self.by_id[key_id]).decrypt(nonce, rest, _bound(source, account, column, key_id)).decode()
        except (InvalidTag, ValueError):
            raise ConfigError(
                f"the token of {source} can't be decrypted with key {key_id}: that key is another one now, or the row was changed by hand",
                hint=f"fix {key_id} in {VARIABLE}, {again}",
            ) from None


def _bound(source: str, account: str, column: str, key_id: str) -> bytes:
    """The place that a ciphertext is bound to; quoted, so that no part can hold a | of its own."""
    return "|".join(quote(part, safe="") for part in (source, account, column, key_id)).encode()


def parse(text: str, where: str = VARIABLE) -> Keys:
    """`k2:BASE64,k1:BASE64`. Raises ConfigError, without showing what was given."""
    found: dict[str, bytes] = {}
    for number, part in enumerate(filter(None, (one.strip() for one in text.split(","))), 1):
        id_, separator, value = part.partition(":")
        key = _decoded(value)
        if not separator or not _KEY_ID.fullmatch(id_) or key is None or id_ in found:
            raise ConfigError(f"{where}: key number {number} can't be read, or its id is there twice", hint=f"{_FORM}; a new one: {MAKE}")
        found[id_] = key
    if not found:
        raise ConfigError(f"{where} holds no key", hint=f"{_FORM}; a new one: {MAKE}")
    return Keys(found)


def _decoded(text: str) -> bytes | None:
    with suppress(binascii.Error, ValueError):
        key = base64.b64decode(text.strip(), validate=True)
        return key if len(key) == _BYTES else None
    return None


def beside(home: Path, *, make: bool) -> Keys | None:
    """The key beside the embedded databases in `home`; made when there is none and `make` says so. Of two processes one makes it."""
    file = home.expanduser() / "token-keys"
    try:
        if make and not file.exists():
            _make(file)
        return parse(file.read_text(), str(file))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"{file}: {error.strerror or 'cannot be read'}", hint="run usersync as the user who made it, or set USERSYNC_KEYS"
        ) from None


def _make(file: Path) -> None:
    """Written whole beside it, then linked: nobody reads half a key, and nobody's key is replaced."""
    file.parent.mkdir(parents=True, exist_ok=True)
    key = secrets.token_bytes(_BYTES)
    descriptor, name = tempfile.mkstemp(prefix="token-keys.", dir=file.parent)  # mode 0600
    try:
        with os.fdopen(descriptor, "w") as stream:
            stream.write(f"local-{secrets.token_hex(3)}:{base64.b64encode(key).decode()}\n")
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileExistsError):
            os.link(name, file)
    finally:
        Path(name).unlink()
