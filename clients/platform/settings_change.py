"""Building the command that changes settings, and parsing origins."""

from __future__ import annotations

from typing import Final, Literal, TypedDict

from shared.contracts.commands import ChangeSettings, HstsChange, RedirectChange
from shared.contracts.domains import Hsts, Origin, RedirectMode, TlsVersion

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}


class SettingsFields(TypedDict, total=False):
    """The settings that a command changes; None and what is left out stay as they are."""

    redirect: RedirectMode | str | None
    redirect_status: Literal[301, 302, 307, 308] | None
    http2: bool | None
    tls_min: TlsVersion | None
    tls_max: TlsVersion | None
    hsts: Hsts | HstsChange | Literal["off"] | None
    origin: str | Origin | None
    trust: Literal["public", "private"] | None


def build_settings_change(domain: str, account: str, fields: SettingsFields) -> ChangeSettings:
    """Build the command that changes the named settings. ValueError when an origin is malformed."""
    mode = fields.get("redirect")
    status = fields.get("redirect_status")
    redirect = None
    if mode is not None or status is not None:
        redirect = RedirectChange(mode=None if mode is None else RedirectMode(mode), status=status)
    hsts = fields.get("hsts")
    if isinstance(hsts, Hsts):
        hsts = HstsChange.model_validate(hsts.model_dump())
    origin = fields.get("origin")
    if isinstance(origin, str):
        origin = parse_origin(origin)
    return ChangeSettings(
        domain=domain,
        account=account,
        redirect=redirect,
        http2=fields.get("http2"),
        tls_min=fields.get("tls_min"),
        tls_max=fields.get("tls_max"),
        hsts=hsts,
        origin=origin,
        trust=fields.get("trust"),
    )


def parse_origin(text: str) -> Origin:
    """Parse ``http(s)://host[:port]``; ValueError says what is wrong."""
    scheme, found, rest = text.partition("://")
    if not found or scheme not in _DEFAULT_PORTS:
        raise ValueError(
            f"{text!r} is not an origin: write http://host[:port] or https://host[:port]"
        )
    host = rest.removesuffix("/")
    port_text = ""
    if host.startswith("["):
        # An IPv6 address: its colons are inside the brackets.
        host, _, port_text = host[1:].partition("]")
    elif ":" in host:
        host, _, port_text = host.rpartition(":")
    port_text = port_text.removeprefix(":") or _DEFAULT_PORTS[scheme]
    if not host or "/" in host or not port_text.isdigit() or not 0 < int(port_text) < 65536:
        raise ValueError(
            f"{text!r} is not an origin: write http://host[:port] or https://host[:port], "
            "without a path"
        )
    return Origin(scheme="https" if scheme == "https" else "http", host=host, port=int(port_text))
