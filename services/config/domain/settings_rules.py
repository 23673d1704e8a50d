"""Partial changes of a domain's settings (rule B7), and which settings exclude each other (rules
B2, B6). Pure."""

from __future__ import annotations

from typing import Any, Literal

from shared.contracts.commands import ChangeSettings, HstsChange
from shared.contracts.domains import Hsts, Origin, Redirect, RedirectMode, Settings
from shared.contracts.findings import Code, Finding, finding


def merge_settings(current: Settings, wanted: ChangeSettings) -> Settings:
    """Return ``current`` with the fields that ``wanted`` names; the others stay as they are.

    Call ``find_missing`` first."""
    redirect = current.redirect
    if wanted.redirect is not None:
        mode = redirect.mode if wanted.redirect.mode is None else wanted.redirect.mode
        status = redirect.status if wanted.redirect.status is None else wanted.redirect.status
        redirect = Redirect(mode=mode, status=status)
    return Settings(
        redirect=redirect,
        http2=current.http2 if wanted.http2 is None else wanted.http2,
        tls_min=wanted.tls_min or current.tls_min,
        tls_max=wanted.tls_max or current.tls_max,
        hsts=_merge_hsts(current.hsts, wanted.hsts),
    )


def find_missing(current: Settings, wanted: ChangeSettings) -> list[Finding]:
    """Return what keeps a change from being merged: a field of HSTS while HSTS is off, without the
    max-age that it needs."""
    named = _named_hsts_fields(wanted.hsts)
    if current.hsts is not None or not named or "max_age" in named:
        return []
    hint = "Name the max-age with it."
    message = "HSTS is off: it needs a max-age."
    return [finding(Code.SETTINGS_CONFLICT, message, field="settings", hint=hint)]


def names_https(wanted: ChangeSettings) -> bool:
    """Return whether a change names a setting of HTTPS. Origin and trust are the domain's own."""
    return any(
        (wanted.redirect, wanted.http2 is not None, wanted.tls_min, wanted.tls_max, wanted.hsts)
    )


def find_warnings(settings: Settings, origin: Origin) -> list[Finding]:
    """Return what may go wrong for visitors. Whether an origin redirects is not known here: nothing
    is fetched."""
    if settings.redirect.mode is RedirectMode.TO_HTTPS and origin.scheme == "http":
        return [finding(Code.SETTINGS_REDIRECT_LOOP, field="settings")]
    return []


def find_conflicts(settings: Settings) -> list[Finding]:
    """Return which settings exclude each other; empty when they can hold together."""
    found = []
    if settings.redirect.mode is RedirectMode.TO_HTTP and settings.hsts is not None:
        message = "A redirect to HTTP excludes HSTS: browsers that saw HSTS never ask by HTTP."
        hint = "Switch HSTS off, or choose another redirect."
        found.append(finding(Code.SETTINGS_CONFLICT, message, field="settings", hint=hint))
    if settings.tls_min > settings.tls_max:
        message = (
            f"The lowest TLS version {settings.tls_min} is above the highest {settings.tls_max}."
        )
        hint = "Name one contiguous range of 1.0 to 1.3."
        found.append(finding(Code.SETTINGS_CONFLICT, message, field="settings", hint=hint))
    if settings.http2 and settings.tls_max < "1.2":
        message = (
            f"HTTP/2 needs TLS 1.2 (RFC 9113, 9.2), and the highest version is {settings.tls_max}."
        )
        hint = "Switch HTTP/2 off, or raise the highest TLS version."
        found.append(finding(Code.SETTINGS_CONFLICT, message, field="settings", hint=hint))
    return found


def _merge_hsts(current: Hsts | None, wanted: HstsChange | Literal["off"] | None) -> Hsts | None:
    if wanted == "off":
        return None
    named = _named_hsts_fields(wanted)
    if not named:
        return current
    before = current.model_dump() if current else {}
    return Hsts.model_validate({**before, **named})


def _named_hsts_fields(wanted: HstsChange | Literal["off"] | None) -> dict[str, Any]:
    if isinstance(wanted, HstsChange):
        return wanted.model_dump(exclude_none=True)
    return {}
