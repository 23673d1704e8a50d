"""Every code that a refusal, a warning or a notice can carry, with its sentence and what to do.

A code is ``noun.fault`` and stable: programs branch on it. The sentence is for people.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from itertools import zip_longest
from typing import Annotated, Literal

from pydantic import Field

from shared.contracts.base import Contract


class Severity(StrEnum):
    REFUSAL = "refusal"
    WARNING = "warning"
    NOTICE = "notice"


R, W, N = Severity.REFUSAL, Severity.WARNING, Severity.NOTICE


class Code(StrEnum):
    """``Code.KEY_MISMATCH.value`` is the wire form; ``severity``, ``sentence`` and ``hint`` explain
    it. ``example``: a message as a finding carries it; the sentence, where every message is just
    that."""

    severity: Severity
    sentence: str
    hint: str
    example: str

    def __new__(
        cls, value: str, severity: Severity, sentence: str, hint: str, example: str = ""
    ) -> Code:
        member = str.__new__(cls, value)
        member._value_ = value
        member.severity, member.sentence, member.hint, member.example = (
            severity,
            sentence,
            hint,
            example or sentence,
        )
        return member

    # The pair (rules D1-D12)
    CERTIFICATE_MISSING = (
        "certificate.missing",
        R,
        "No certificate was found in the certificate field.",
        "Paste the PEM text, from -----BEGIN CERTIFICATE----- to -----END CERTIFICATE-----.",
    )
    CERTIFICATE_NOT_PEM = (
        "certificate.not_pem",
        R,
        "The certificate is not in PEM form.",
        "Convert it: openssl x509 -inform DER -in cert.der -out cert.pem",
        "The certificate field holds PKCS#7, not PEM.",
    )
    CERTIFICATE_MALFORMED = (
        "certificate.malformed",
        R,
        "A certificate block cannot be read.",
        "Export the certificate again and upload the file unchanged.",
        "Block 1 cannot be read: it is not an X.509 certificate in DER.",
    )
    CERTIFICATE_TOO_LARGE = (
        "certificate.too_large",
        R,
        "The certificate field is over its limit.",
        "Upload the leaf and its intermediates only: at most 64 KiB, 10 blocks, 1,000 names.",
        "Block 0 has 1,001 names; 1,000 are allowed.",
    )
    CERTIFICATE_CONTAINS_KEY = (
        "certificate.contains_key",
        R,
        "A private key is in the certificate field, or a certificate is in the key field.",
        "Put the certificates in one field and the key in the other. Consider the key exposed "
        "if the text went elsewhere.",
        "The certificate field holds a private key (block 2).",
    )
    CERTIFICATE_UNEXPECTED_BLOCK = (
        "certificate.unexpected_block",
        R,
        "A block that is not a certificate is in the certificate field.",
        "Remove it; keep only the leaf and its intermediates.",
        "Block 2 is labelled X509 CRL, not a certificate.",
    )
    CERTIFICATE_NORMALISED = (
        "certificate.normalised",
        N,
        "The certificate text was normalised.",
        "Nothing to do: what is stored is canonical PEM.",
        "Normalised: lines that are not 64 characters long (block 0).",
    )
    CERTIFICATE_EXPIRED = (
        "certificate.expired",
        R,
        "The certificate has expired.",
        "Renew the certificate and upload the new one.",
        "The certificate in block 0, CN=www.example.com (SHA-256 4f196bfc40ce2fce…), expired on "
        "2026-03-16 12:00:00 UTC.",
    )
    CERTIFICATE_NOT_YET_VALID = (
        "certificate.not_yet_valid",
        R,
        "The certificate is not valid yet.",
        "Wait until it becomes valid, or have it reissued.",
        "The certificate in block 0, CN=www.example.com (SHA-256 4f196bfc40ce2fce…), is "
        "valid from 2025-12-16 12:00:00 UTC.",
    )
    CERTIFICATE_EXPIRES_SOON = (
        "certificate.expires_soon",
        W,
        "The certificate expires in fewer than 14 days.",
        "Renew it now.",
        "The certificate in block 0, CN=www.example.com (SHA-256 4f196bfc40ce2fce…), "
        "expires on 2026-03-16 12:00:00 UTC.",
    )
    CERTIFICATE_LIFETIME_LONG = (
        "certificate.lifetime_long",
        W,
        "The certificate is valid for longer than public CAs may issue.",
        "Browsers may reject it; get one with a shorter validity.",
        "The certificate in block 0, CN=www.example.com (SHA-256 4f196bfc40ce2fce…), is "
        "valid for 400 days; the limit of its day of issue is 398.",
    )
    CERTIFICATE_NO_SCTS = (
        "certificate.no_scts",
        W,
        "The certificate carries no signed certificate timestamps, which "
        "browsers demand of public CAs.",
        "Chrome, Safari and Firefox refuse it: have it reissued, logged in Certificate "
        "Transparency.",
        "The certificate in block 0, CN=www.example.com (SHA-256 4f196bfc40ce2fce…), carries no "
        "signed certificate timestamps.",
    )
    CERTIFICATE_NOT_A_SERVER = (
        "certificate.not_a_server",
        R,
        "The certificate is not usable by a TLS server.",
        "Ask the CA for a TLS server certificate (X.509 v3, serverAuth, not a CA).",
        "The certificate in block 0, CN=www.example.com (SHA-256 4f196bfc40ce2fce…), is not "
        "for TLS servers (extended key usage without serverAuth).",
    )
    CERTIFICATE_MUST_STAPLE = (
        "certificate.must_staple",
        W,
        "The certificate demands OCSP stapling, which the nodes do not send.",
        "Have it reissued without must-staple: Firefox refuses it.",
        "The certificate in block 0, CN=www.example.com (SHA-256 4f196bfc40ce2fce…), demands "
        "OCSP stapling (must-staple), which the nodes do not send.",
    )
    CERTIFICATE_CLIENTS_REFUSE = (
        "certificate.clients_refuse",
        R,
        "Clients refuse a certificate of the chain for its form.",
        "Have it reissued without that.",
        "Block 0, CN=www.example.com (SHA-256 4f196bfc40ce2fce…), has an RSA key whose "
        "parameters are not NULL (RFC 3279, 2.3.1): Firefox, Chrome and Go refuse it.",
    )
    CERTIFICATE_CLIENT_REFUSES = (
        "certificate.client_refuses",
        W,
        "One kind of client refuses a certificate of the chain for its form.",
        "Have it reissued without that if these clients matter.",
        "Block 0, CN=Test & Issuing CA (SHA-256 aa38eb427ecd92ea…), has a character that a "
        "PrintableString may not hold in its subject: Chrome refuses it.",
    )
    CERTIFICATE_UNLOADABLE = (
        "certificate.unloadable",
        R,
        "The nodes cannot load a certificate of the chain.",
        "Have it reissued: OpenSSL does not read it, so it cannot be served.",
        "Block 0, CN=www.example.com (SHA-256 4f196bfc40ce2fce…), cannot be loaded by OpenSSL, "
        "which the nodes serve with (one of its parts cannot be decoded).",
    )
    CERTIFICATE_UNJUDGEABLE = (
        "certificate.unjudgeable",
        R,
        "The pair could not be judged within the limits of time and memory.",
        "Use a common key size and an ordinary chain.",
    )
    REPORT_SHORTENED = (
        "report.shortened",
        N,
        "The report does not hold every finding.",
        "Mend what is listed and have it judged again.",
        "12 more findings are not listed.",
    )
    CERTIFICATE_NAMES_LOST = (
        "certificate.names_lost",
        W,
        "The new certificate does not cover names that the live one covers.",
        "Check that no visitor uses them.",
        "The live certificate covers, and this one does not: old.example.com.",
    )
    CERTIFICATE_UNKNOWN = (
        "certificate.unknown",
        R,
        "The account's library has no certificate of this name.",
        "List them: edgetls cert list",
    )
    CERTIFICATE_IN_USE = (
        "certificate.in_use",
        R,
        "The stored certificate is in use and cannot be deleted.",
        "See where: edgetls cert usage NAME; give those domains another certificate first.",
    )
    CERTIFICATE_NAME_TAKEN = (
        "certificate.name_taken",
        R,
        "The account has another certificate of this name.",
        "Choose another name, or store it with overwrite: every domain that uses it follows.",
    )
    CERTIFICATE_NAME_INVALID = (
        "certificate.name_invalid",
        R,
        "The certificate name is not valid.",
        "Use 1 to 128 of letters, digits and _ - . only.",
    )
    CERTIFICATE_NO_PREVIOUS = (
        "certificate.no_previous",
        R,
        "There is no earlier certificate to roll back to.",
        "A replaced certificate is kept until the next certificate change or disable.",
    )
    ROOTS_INVALID = (
        "roots.invalid",
        R,
        "The text is not a list of CA certificates in PEM form.",
        "Send 1 to 20 CA certificates, 64 KiB at most, and nothing else; an empty text clears "
        "the list.",
    )
    KEY_MISSING = (
        "key.missing",
        R,
        "No private key was found in the key field.",
        "Paste the PEM text of the key, from -----BEGIN to -----END.",
    )
    KEY_NOT_PEM = (
        "key.not_pem",
        R,
        "The private key is not in PEM form.",
        "Convert it: openssl pkey -inform DER -in key.der -out key.pem",
        "The key field holds PKCS#12, not PEM.",
    )
    KEY_MALFORMED = (
        "key.malformed",
        R,
        "The private key cannot be read.",
        "Export the key again, unchanged.",
        "Block 0 of the key field is not base64 (its line 1 has the character U+0021).",
    )
    KEY_TOO_LARGE = (
        "key.too_large",
        R,
        "The key field is over its limit of 16 KiB.",
        "Upload one private key only.",
        "The key field has 16,385 bytes; 16,384 are allowed.",
    )
    KEY_SEVERAL = (
        "key.several",
        R,
        "More than one private key is in the key field.",
        "Keep only the key of the leaf.",
        "The key field holds 2 private keys.",
    )
    KEY_NORMALISED = (
        "key.normalised",
        N,
        "The key text was normalised.",
        "Nothing to do.",
        "Normalised: CRLF line ends.",
    )
    KEY_ENCRYPTED = (
        "key.encrypted",
        R,
        "The private key has a password.",
        "Remove it: openssl pkey -in key.pem -out key-plain.pem",
    )
    KEY_UNSUPPORTED = (
        "key.unsupported",
        R,
        "Keys of this kind are not supported.",
        "Use RSA of 2048 to 8192 bits, or ECDSA on P-256, P-384 or P-521.",
        "The private key is RSA of 1024 bits.",
    )
    KEY_WEAK = (
        "key.weak",
        R,
        "The private key is weak.",
        "Generate a new key and have the certificate reissued for it.",
        "The private key is weak: its public exponent is even or below 65537.",
    )
    KEY_MISMATCH = (
        "key.mismatch",
        R,
        "The private key does not belong to the certificate.",
        "Upload the key that the certificate request was made with.",
        "The private key does not belong to the certificate in block 0, CN=www.example.com "
        "(SHA-256 "
        "4f196bfc40ce2fce…), whose key is ECDSA on P-256.",
    )
    PAIR_SAME_KIND = (
        "pair.same_kind",
        R,
        "Both pairs have a key of the same kind.",
        "Submit one pair with an RSA key and one with an ECDSA key, or one pair only.",
    )
    PAIR_NAMES_DIFFER = (
        "pair.names_differ",
        W,
        "The RSA and the ECDSA certificate have different names.",
        "Get both for the same names: visitors are served one or the other.",
        "The two certificates have different names: only pair 0 covers other.example.com.",
    )
    KEY_UNOPENABLE = (
        "key.unopenable",
        R,
        "The sealed key cannot be opened.",
        "Seal it to the current submission key, for this account and submission.",
    )
    DOMAIN_MISMATCH = (
        "domain.mismatch",
        R,
        "No name of the certificate covers the domain.",
        "Get a certificate with this domain as a DNS name; the common name does not count.",
        "other.example.com is not covered; the certificate is for www.example.com.",
    )
    CHAIN_UNTRUSTED = (
        "chain.untrusted",
        R,
        "The chain does not lead to a trusted root.",
        "Use a certificate of a public CA, or upload your private root.",
        "The chain ends at block 1, CN=Other Issuing CA (SHA-256 aa38eb427ecd92ea…); its issuer, "
        "CN=Other Root CA (key identifier "
        "8B:31:05:6C:27:62:7E:2C:79:65:DB:96:EB:A3:14:CB:E0:66:AC:A3), "
        "is not a trusted root.",
    )
    CHAIN_INCOMPLETE = (
        "chain.incomplete",
        R,
        "An intermediate certificate is missing.",
        "Append the CA's intermediate certificates after the leaf.",
        "The issuer of block 0, CN=Test Issuing CA (key identifier "
        "8B:31:05:6C:27:62:7E:2C:79:65:DB:96:EB:A3:14:CB:E0:66:AC:A3), is neither in the "
        "upload nor "
        "a trusted root.",
    )
    CHAIN_UNRELATED = (
        "chain.unrelated",
        R,
        "A certificate of the chain has nothing to do with the leaf.",
        "Remove it.",
        "Block 2, CN=Other Issuing CA (SHA-256 aa38eb427ecd92ea…), did not issue the leaf or its "
        "issuers.",
    )
    CHAIN_WRONG_ORDER = (
        "chain.wrong_order",
        N,
        "The chain was out of order and was reordered.",
        "Nothing to do: leaf first, then each issuer.",
        "The chain was put in order: blocks 1, 0.",
    )
    CHAIN_BAD_SIGNATURE = (
        "chain.bad_signature",
        R,
        "A signature in the chain does not verify.",
        "Fetch the intermediates again from the CA.",
        "The signature of block 0, CN=www.example.com (SHA-256 4f196bfc40ce2fce…), does not "
        "verify with the key of its issuer, CN=Test Issuing CA (block 1).",
    )
    CHAIN_EXPIRED = (
        "chain.expired",
        R,
        "An intermediate certificate is outside its validity.",
        "Fetch the CA's current intermediates.",
        "Block 1 of the chain, CN=Variant CA (SHA-256 5df4ddd80910530e…), is valid from "
        "2016-01-18 to "
        "2026-01-14 only.",
    )
    CHAIN_SPARE_EXPIRED = (
        "chain.spare_expired",
        W,
        "An intermediate certificate that is not needed is outside its validity.",
        "Leave it out.",
        "Block 2, CN=Test Root CA (SHA-256 5df4ddd80910530e…), is outside its validity; the chain "
        "holds without it.",
    )
    CHAIN_ENDS_FIRST = (
        "chain.ends_first",
        W,
        "A certificate of the chain ends before the leaf does.",
        "Clients refuse the chain from then on: append the CA's newer intermediate.",
        "The chain ends on 2026-02-16 12:00:00 UTC with block 1, CN=Test Issuing CA (SHA-256 "
        "aa38eb427ecd92ea…); the certificate in block 0 ends on 2026-04-16 12:00:00 UTC.",
    )
    CHAIN_ROOT_INCLUDED = (
        "chain.root_included",
        N,
        "A root at the end of the chain was dropped.",
        "Nothing to do.",
        "Block 2, CN=Test Root CA (SHA-256 5df4ddd80910530e…), is a root and was dropped.",
    )
    # Domains and HTTPS (rules A, B)
    DOMAIN_INVALID = (
        "domain.invalid",
        R,
        "The domain name is not valid.",
        "Use letters, digits and hyphens in labels of at most 63; `*` only as the whole first "
        "label.",
        "At position 5: a label is empty.",
    )
    ACCOUNT_OVERDUE = (
        "account.overdue",
        R,
        "The account is overdue: its balance is not above 0.",
        "Credit the balance; then HTTPS can be resumed.",
    )
    DOMAIN_UNKNOWN = (
        "domain.unknown",
        R,
        "The domain is not registered in this account.",
        "Register it first.",
    )
    DOMAIN_TAKEN = (
        "domain.taken",
        R,
        "The domain is registered already.",
        "Check which account has it, or remove it there first.",
        "A wildcard and the hosts under it belong to one account, and another account holds one of "
        "them.",
    )
    DOMAIN_SERVICE_TYPE_UNSUPPORTED = (
        "domain.service_type_unsupported",
        R,
        "This service type has no HTTPS acceleration.",
        "Use image_small_file, download, video or live_streaming.",
    )
    ORIGIN_FORBIDDEN = (
        "origin.forbidden",
        R,
        "The origin's address is loopback, link-local, private or a node's own.",
        "Use an address that is reachable on the public network.",
    )
    ORIGIN_INVALID = (
        "origin.invalid",
        R,
        "The origin is not a host with a port.",
        "Use http(s)://host[:port].",
        "An origin is one host, not a wildcard.",
    )
    HTTPS_NOT_ENABLED = (
        "https.not_enabled",
        R,
        "HTTPS is not enabled for this domain.",
        "Submit a certificate first.",
    )
    SETTINGS_CONFLICT = (
        "settings.conflict",
        R,
        "These settings exclude each other.",
        "Change one of them.",
        "The lowest TLS version 1.3 is above the highest 1.2.",
    )
    SETTINGS_REDIRECT_LOOP = (
        "settings.redirect_may_loop",
        W,
        "Visitors are redirected to HTTPS while the nodes fetch from the origin by HTTP.",
        "If the origin itself redirects to HTTPS, visitors never arrive: use an https origin.",
    )
    SUBMISSION_UNDECIDED = (
        "submission.undecided",
        R,
        "The pair was not judged in time.",
        "Submit it again.",
    )
    SUBMISSION_SUPERSEDED = (
        "submission.superseded",
        R,
        "A later command overtook this submission.",
        "Nothing to do: the later command counts.",
    )
    PAIR_CHANGED = (
        "pair.changed",
        R,
        "The pair has changed since it was read for resealing.",
        "Read the list of sealed pairs again.",
    )
    # Money, queries, the wire
    BALANCE_CURRENCY = (
        "balance.currency_differs",
        R,
        "The account is kept in another currency.",
        "Use the account's own currency: amounts are never mixed.",
    )
    BALANCE_REFERENCE = (
        "balance.reference_used",
        R,
        "This reference was used for another amount.",
        "Use a new reference for each credit.",
    )
    BALANCE_INSUFFICIENT = (
        "balance.insufficient",
        R,
        "The balance does not cover this.",
        "Credit the account first.",
    )
    AUDIT_DIFFERS = (
        "audit.differs",
        R,
        "What was recorded differs from the archive.",
        "Change nothing in the database, and examine the places that are named.",
    )
    PLAN_UNKNOWN = (
        "plan.unknown",
        R,
        "There is no such plan for sale in this currency.",
        "List them: edgetls prices show",
    )
    PRICES_INVALID = (
        "prices.invalid",
        R,
        "The price book is inconsistent.",
        "Correct the file and preview it again.",
    )
    PRICES_RETROACTIVE = (
        "prices.retroactive",
        R,
        "The price book changes the price of hours that have already begun.",
        "Let new prices start at a full hour that is still to come; leave the others as they are.",
    )
    PRICES_CHANGED = (
        "prices.changed",
        R,
        "Another price book was applied since the preview.",
        "Preview it again.",
    )
    REQUEST_MALFORMED = (
        "request.malformed",
        R,
        "The request does not follow its contract.",
        "See the AsyncAPI document of the service.",
        "At fault: domains",
    )
    REQUEST_TOO_OLD = (
        "request.too_old",
        R,
        "The period begins before what is kept.",
        "Ask for a later period.",
        "Usage by the hour is kept from 2025-03-01 00:00 UTC on.",
    )
    REQUEST_TOO_LARGE = (
        "request.too_large",
        R,
        "The answer would be too large.",
        "Ask for a smaller page or period.",
    )
    SERVICE_BUSY = (
        "service.busy",
        R,
        "The service cannot answer now.",
        "Try again in a few seconds.",
    )
    DEAD_UNKNOWN = (
        "dead.unknown",
        R,
        "There is no such dead letter.",
        "List them: edgetls dead list",
    )
    DEAD_STILL_REFUSED = (
        "dead.still_refused",
        R,
        "The message was refused again.",
        "Drop it, or have its sender send a corrected one.",
    )
    DEAD_SETTLED = (
        "dead.settled",
        R,
        "The command was settled as refused when it died: its id counts as done.",
        "Send it again under a new id, then drop this letter.",
    )
    DEAD_BODILESS = (
        "dead.bodiless",
        R,
        "This dead letter carried a sealed key, so its body was not kept.",
        "Have its sender send it again.",
    )


class Finding(Contract):
    """One fault of a submission. ``block`` counts the PEM blocks of ``field`` from 0; ``pair`` the
    pairs."""

    code: Code
    severity: Severity
    field: Literal["certificate", "private_key", "domain", "settings", "request"] | None = None
    block: int | None = None
    message: Annotated[str, Field(max_length=4000)]
    hint: Annotated[str, Field(max_length=1000)]
    pair: int = 0
    domain: str | None = None


def finding(
    code: Code,
    message: str = "",
    *,
    field: Literal["certificate", "private_key", "domain", "settings", "request"] | None = None,
    block: int | None = None,
    severity: Severity | None = None,
    hint: str = "",
    pair: int = 0,
    domain: str | None = None,
) -> Finding:
    """A finding with the code's own sentence, severity and hint where none is given."""
    return Finding(
        code=code,
        severity=severity or code.severity,
        field=field,
        block=block,
        pair=pair,
        domain=domain,
        message=message or code.sentence,
        hint=hint or code.hint,
    )


def findings_from(
    codes: Iterable[str], messages: Iterable[str] = (), *, unknown: Code | None = None
) -> list[Finding]:
    """The findings of an event, which carries their codes and perhaps their messages. A code that
    only a newer service knows becomes ``unknown``, and is left out without it."""
    known = {code.value: code for code in Code}
    pairs = [
        (known.get(code, unknown), message)
        for code, message in zip_longest(codes, messages, fillvalue="")
    ]
    return [finding(code, message) for code, message in pairs if code is not None]


class Refusal(Contract):
    """The answer to a query or command that cannot be done; told from an answer by its only
    field."""

    refusal: list[Finding]
