"""Every command that is refused ends with 1 and says why: one JSON value, with all findings."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

import pytest

from deploy.embedded.dev_ca import DevCa
from deploy.embedded.platform import EmbeddedPlatform
from tests.support.command_line import Edgetls
from tests.support.pki import issue_pair

ORIGIN = ("--type", "download", "--origin", "http://127.0.0.1:9")
LIVE = "live.refusals.test"
FREE = "free.refusals.test"
ELSEWHERE = "elsewhere.other.test"
KEPT = "kept-for-refusals"


@pytest.fixture(scope="module")
def files(scratch: Path, platform: EmbeddedPlatform) -> Path:
    """A folder with a good pair, one for another name, and files that are neither."""
    ca = DevCa.load(Path(platform.run["trust_roots"]).parent)
    folder = scratch / "refusals"
    folder.mkdir()
    for name, name_in_pair in (("good", "*.refusals.test"), ("other", "*.unrelated.test")):
        pair = issue_pair(ca, name_in_pair)
        (folder / f"{name}.pem").write_text(pair.chain)
        (folder / f"{name}.key").write_text(pair.key)
    (folder / "junk").write_text("neither PEM nor a price book")
    prices = []
    for currency in ("CNY", "USD"):
        price_id = f"list-{currency.lower()}"
        prices.append({"id": price_id, "currency": currency, "tiers": [{"price": "9"}]})
    (folder / "prices.json").write_text(json.dumps({"prices": prices}))
    return folder


@pytest.fixture(scope="module")
async def prepared_domains(platform: EmbeddedPlatform, files: Path) -> None:
    """Register a domain with HTTPS by a stored certificate, one without, and one that the
    certificate does not cover."""
    edgetls = Edgetls(platform.data)
    for domain in (LIVE, FREE, ELSEWHERE):
        assert (await edgetls("domain", "register", domain, *ORIGIN)).code == 0
    assert (await edgetls("cert", "store", KEPT, *_pair(files, "good"))).code == 0
    assert (await edgetls("cert", "deploy", KEPT, LIVE)).code == 0
    assert (
        await edgetls("balance", "credit", "1", "--currency", "USD", "--account", "refused-usd")
    ).code == 0


def _pair(folder: Path, name: str) -> list[str]:
    return ["--cert", str(folder / f"{name}.pem"), "--key", str(folder / f"{name}.key")]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["domain", "register", "foo_bar.refusals.test", *ORIGIN], "position 4"),
        (["domain", "register", "foo_bar.refusals.test", *ORIGIN, "--dry-run"], "position 4"),
        (
            ["domain", "register", "*.refusals.test", *ORIGIN, "--account", "other"],
            "another account holds one of them",
        ),
        (
            ["domain", "register", FREE, "--type", "mining", "--origin", "http://127.0.0.1:9"],
            "service_type_unsupported",
        ),
        (["domain", "remove", "no.refusals.test"], "domain.unknown"),
        (["domain", "show", "no.refusals.test"], "unknown"),
        (["history", "never.refusals.test"], "domain.unknown"),
        (["disable", "no.refusals.test"], "domain.unknown"),
        (["disable", "no.refusals.test", "--dry-run"], "no.refusals.test"),
        (["submit", FREE, "@other"], "*.unrelated.test"),
        (["check", FREE, "@other"], "*.unrelated.test"),
        (["settings", FREE, "--http2", "on"], "https.not_enabled"),
        (
            ["settings", LIVE, "--tls-min", "1.3", "--tls-max", "1.2"],
            "1.3 is above the highest 1.2",
        ),
        (["settings", LIVE, "--hsts-preload"], "max-age"),
        (["rollback", LIVE], "certificate.no_previous"),
        (["rollback", LIVE, "--dry-run"], "certificate.no_previous"),
        (["cert", "store", "bad name", "@good"], "certificate.name_invalid"),
        (["cert", "store", KEPT, "@good"], "taken"),
        (["cert", "deploy", KEPT, LIVE, ELSEWHERE, "no.refusals.test"], "domain.mismatch"),
        (["cert", "deploy", KEPT, ELSEWHERE, "no.refusals.test"], "domain.unknown"),
        (["cert", "deploy", "nothing", LIVE], "certificate.unknown"),
        (["cert", "deploy", "nothing", LIVE, "--dry-run"], LIVE),
        (["cert", "delete", KEPT], LIVE),
        (["cert", "delete", KEPT, "--dry-run"], LIVE),
        (["cert", "show", "nothing"], "certificate.unknown"),
        (["cert", "usage", "nothing"], "certificate.unknown"),
        (["roots", "set", "@junk"], "0 PEM blocks"),
        (["roots", "set", "@junk", "--dry-run"], "0 PEM blocks"),
        (["dead", "show", "999999"], "dead.unknown"),
        (["dead", "replay", "999999"], "dead.unknown"),
        (["dead", "drop", "999999"], "dead.unknown"),
        (
            ["balance", "credit", "1", "--currency", "CNY", "--account", "refused-usd"],
            "currency_differs",
        ),
        (
            ["balance", "threshold", "1", "--currency", "CNY", "--account", "refused-usd"],
            "currency_differs",
        ),
        (
            ["plan", "buy", "no-plan", "--currency", "USD", "--account", "refused-usd"],
            "plan.unknown",
        ),
        (["prices", "preview", "@prices"], "prices.retroactive"),
        (["prices", "apply", "@prices", "--yes"], "prices.retroactive"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
@pytest.mark.usefixtures("prepared_domains")
async def test_a_refusal_is_one_value_and_ends_with_one(
    words: list[str], reason: str, edgetls: Edgetls, files: Path
) -> None:
    options = {
        "@good": _pair(files, "good"),
        "@other": _pair(files, "other"),
        "@junk": [str(files / "junk")],
        "@prices": [str(files / "prices.json")],
    }
    arguments = []
    for word in words:
        arguments += options.get(word, [word])
    done = await edgetls(*arguments, "--json")
    assert done.code == 1 and done.json and reason in done.out, done.out + done.err


@pytest.mark.usefixtures("prepared_domains")
async def test_a_deployment_in_part_tells_each_domain_and_ends_with_one(edgetls: Edgetls) -> None:
    done = await edgetls("cert", "deploy", KEPT, LIVE, ELSEWHERE, "--wait", "--json")
    assert done.code == 1
    ended = {one["domain"]: one for one in done.json["results"]}
    assert ended[LIVE]["outcome"] == "unchanged" and done.json["nodes"] == {LIVE: 2}
    assert ended[ELSEWHERE]["findings"][0]["code"] == "domain.mismatch"
    tried = await edgetls("cert", "deploy", KEPT, LIVE, ELSEWHERE, "--dry-run", "--json")
    assert tried.code == 1 and {one["outcome"] for one in tried.json["effects"]} == {
        "unchanged",
        "refused",
    }
    shown = await edgetls("cert", "deploy", KEPT, LIVE, ELSEWHERE)
    assert shown.code == 1 and ELSEWHERE in shown.err and "what to do" in shown.err


@pytest.mark.usefixtures("prepared_domains")
async def test_a_replacement_that_a_domain_cannot_follow_ends_with_one(
    edgetls: Edgetls, files: Path
) -> None:
    name, domain = f"replaced-{secrets.token_hex(3)}", "replaced.refusals.test"
    assert (await edgetls("domain", "register", domain, *ORIGIN)).code == 0
    assert (await edgetls("cert", "store", name, *_pair(files, "good"))).code == 0
    assert (await edgetls("cert", "deploy", name, domain)).code == 0
    done = await edgetls(
        "cert", "store", name, *_pair(files, "other"), "--overwrite", "--wait", "--json"
    )
    assert (done.code, done.json["outcome"]) == (1, "applied")
    assert [(one["domain"], one["outcome"]) for one in done.json["followed"]] == [
        (domain, "refused")
    ]
    assert done.json["followed"][0]["findings"]


@pytest.mark.usefixtures("prepared_domains")
async def test_waiting_where_no_node_counts_tells_what_was_done(edgetls: Edgetls) -> None:
    for node in ("node-1", "node-2"):
        assert (await edgetls("fleet", "drain", node)).code == 0
    try:
        done = await edgetls("settings", LIVE, "--http2", "on", "--wait", "--json")
    finally:
        for node in ("node-1", "node-2"):
            assert (await edgetls("fleet", "return", node)).code == 0
    assert (done.code, done.json["outcome"], done.json["exit"]) == (3, "applied", 3)
    assert (
        done.json["command_id"] and done.json["revision"] and "no node counts" in done.json["error"]
    )
