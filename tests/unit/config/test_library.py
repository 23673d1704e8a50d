"""The library's pure machine, alone and with the domains that it serves."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from services.config.domain import (
    command_parser,
    domain_machine,
    library_entry,
    names,
    reuse_checks,
    scheduling,
    settings_rules,
    trust_roots,
)
from services.config.domain.commands import (
    DeleteCommand,
    DomainCommand,
    JudgingResult,
    JudgingTimeout,
    LibraryCommand,
    ResolveDeployment,
    RollbackCommand,
    StoreCommand,
    UpdateFromLibrary,
)
from services.config.domain.events import Event, Settled
from services.config.domain.model import Certificate, CommandContext, LibraryEntry
from shared import catalogue
from shared.contracts.base import SealedKey
from shared.contracts.certificates import DeployCertificate
from shared.contracts.commands import ChangeSettings, SubmittedPair
from shared.contracts.domains import Hsts, Origin, Redirect, RedirectMode, Settings
from shared.contracts.findings import Code
from shared.errors import Refused
from tests.support.pki import Authority
from tests.unit.config.made import (
    AT,
    NAME,
    OWNER,
    TITLE,
    accept,
    cause,
    change,
    context,
    deploy,
    disable,
    kept,
    redirect,
    refuse,
    register,
    reseal,
    submit,
)
from tests.unit.config.test_machine import ENABLED, outcomes, play
from tests.unit.config.test_scheduling import run as run_domain

SEALED = SubmittedPair.model_construct(sealed_key=SealedKey(epoch=0, box=""))


def store(id: str, *, overwrite: bool = False) -> StoreCommand:
    asked = cause(id, command=catalogue.CMD_CERTIFICATE_STORE)
    return StoreCommand(asked, TITLE, f"judge-{id}", (SEALED,), "public", overwrite, False)


def delete(id: str = "del") -> DeleteCommand:
    return DeleteCommand(cause(id, command=catalogue.CMD_CERTIFICATE_DELETE))


def resolve(id: str, *domains: str) -> ResolveDeployment:
    return ResolveDeployment(
        cause(id, command=catalogue.CMD_CERTIFICATE_DEPLOY), domains or (NAME,)
    )


def told(
    story: Sequence[LibraryCommand | JudgingResult], **known: Any
) -> tuple[LibraryEntry | None, list[Event]]:
    state: LibraryEntry | None = None
    events: list[Event] = []
    for asked in story:
        if isinstance(asked, JudgingResult):
            decided = library_entry.decide(state, asked, context(**known))
        else:
            decided = scheduling.decide_now(library_entry, state, asked, context(**known))
        state = scheduling.evolve_all(library_entry, state, decided)
        events += decided
    return state, events


def run(
    state: LibraryEntry | None, commands: Sequence[LibraryCommand], **known: Any
) -> scheduling.QueueResult[LibraryEntry]:
    return scheduling.run_queue(library_entry, state, commands, context(**known))


TAKEN = frozenset({(OWNER, TITLE)})


@pytest.mark.parametrize(
    ("sentence", "story", "ends"),
    [
        ("an accepted pair is stored", [store("a"), accept("a")], ["a applied"]),
        ("a refused one leaves no entry", [store("a"), refuse("a")], ["a refused"]),
        (
            "a name is given once",
            [store("a"), accept("a"), store("b")],
            ["a applied", "b refused certificate.name_taken"],
        ),
        (
            "unless it may be replaced",
            [store("a"), accept("a"), store("b", overwrite=True), accept("b", "new")],
            ["a applied", "b applied"],
        ),
        (
            "the same pair again changes nothing",
            [store("a"), accept("a"), store("b", overwrite=True), accept("b")],
            ["a applied", "b unchanged"],
        ),
        (
            "a later replacement overtakes",
            [store("a"), store("b", overwrite=True), accept("a"), accept("b", "new")],
            ["a superseded submission.superseded", "b applied"],
        ),
        (
            "a late verdict is dropped",
            [store("a"), JudgingTimeout("a"), accept("a")],
            ["a undecided submission.undecided"],
        ),
        ("what is not there cannot be deleted", [delete()], ["del refused certificate.unknown"]),
        ("what is there can", [store("a"), accept("a"), delete()], ["a applied", "del applied"]),
        (
            "a reseal compares and sets",
            [store("a"), accept("a"), reseal("pair-leaf", 1, 2), reseal("pair-leaf", 1, 2, "t")],
            ["a applied", "s applied", "t refused pair.changed"],
        ),
    ],
)
def test_every_library_command_ends_as_the_rules_say(
    sentence: str, story: list[LibraryCommand | JudgingResult], ends: list[str]
) -> None:
    assert outcomes(told(story)[1]) == ends, sentence


def test_a_name_that_a_custom_certificate_has_is_taken() -> None:
    assert outcomes(told([store("a", overwrite=True)], taken=TAKEN)[1]) == [
        "a refused certificate.name_taken"
    ]


def test_the_refusal_of_a_deletion_lists_the_domains() -> None:
    _, events = told(
        [store("a"), accept("a"), delete()],
        users=tuple(f"d{n}.example.com" for n in range(60)),
    )
    settled = events[-1]
    assert isinstance(settled, Settled) and settled.findings[0].code is Code.CERTIFICATE_IN_USE
    assert (
        "d0.example.com" in settled.findings[0].message
        and "and 10 more" in settled.findings[0].message
    )


def test_a_replacement_that_is_refused_does_not_end_the_one_that_is_judged() -> None:
    state, _ = told([store("a")])
    assert run(state, [store("b", overwrite=True)], taken=TAKEN).events == []
    assert run(state, [store("b", overwrite=True)]).ran == 1


def test_a_deletion_waits_for_the_deployments_before_it() -> None:
    state, _ = told([store("a"), accept("a")])
    done = run(state, [resolve("d"), delete()])
    assert done.ran == 1
    assert run(done.state, [delete()], unsettled=True).ran == 0
    assert run(done.state, [delete()]).ran == 1


def test_a_name_given_again_is_another_entry() -> None:
    first, _ = told([store("a"), accept("a")])
    second, _ = told([store("a"), accept("a"), delete(), store("b"), accept("b")])
    assert first is not None and second is not None and first.id != second.id


# --- On domains ---


def follow(id: str, certificate: Certificate | None) -> UpdateFromLibrary:
    return UpdateFromLibrary(
        cause(id, command=catalogue.CMD_CERTIFICATE_STORE), "entry", certificate
    )


def back(id: str = "b") -> RollbackCommand:
    return RollbackCommand(cause(id, command=catalogue.CMD_CERTIFICATE_ROLLBACK))


@pytest.mark.parametrize(
    ("sentence", "story", "ends"),
    [
        ("a deployment enables", [register(), deploy("d", kept())], ["r applied", "d applied"]),
        (
            "what is not in the library",
            [register(), deploy("d", None)],
            ["r applied", "d refused certificate.unknown"],
        ),
        (
            "twice is once",
            [register(), deploy("d", kept()), deploy("e", kept())],
            ["r applied", "d applied", "e unchanged"],
        ),
        (
            "names that are lost are warned of",
            [
                register(),
                deploy("d", kept(sans=["*.example.com", "example.com"])),
                deploy("e", kept("new", "v2")),
                back(),
            ],
            ["r applied", "d applied", "e applied certificate.names_lost", "b applied"],
        ),
        (
            "also by who follows and goes back",
            [
                register(),
                deploy("d", kept()),
                follow("f", kept("new", "v2", sans=[NAME, "x.other.com"])),
                back(),
            ],
            [
                "r applied",
                "d applied",
                "f applied certificate.names_lost",
                "b applied certificate.names_lost",
            ],
        ),
        (
            "another domain's names",
            [register(), deploy("d", kept(sans=["*.other.com"]))],
            ["r applied", "d refused domain.mismatch"],
        ),
        (
            "an expired one",
            [register(), deploy("d", kept(not_after=AT))],
            ["r applied", "d refused certificate.expired"],
        ),
        (
            "an expired intermediate",
            [register(), deploy("d", kept(chain_until=AT))],
            ["r applied", "d refused chain.expired"],
        ),
        (
            "one that is not valid yet",
            [register(), deploy("d", kept(not_before=AT + timedelta(days=1)))],
            ["r applied", "d refused certificate.not_yet_valid"],
        ),
        (
            "one that ends soon warns",
            [register(), deploy("d", kept(not_after=AT + timedelta(days=3)))],
            ["r applied", "d applied certificate.expires_soon"],
        ),
        (
            "a follower follows",
            [register(), deploy("d", kept()), follow("f", kept("new", "v2"))],
            ["r applied", "d applied", "f applied"],
        ),
        (
            "but not with another certificate by then",
            [*ENABLED, follow("f", kept("new", "v2"))],
            ["r applied", "s1 applied", "f superseded submission.superseded"],
        ),
        (
            "nor after a disable",
            [register(), deploy("d", kept()), disable("x"), follow("f", kept("new", "v2"))],
            ["r applied", "d applied", "x applied", "f superseded submission.superseded"],
        ),
        (
            "nor when it was replaced again",
            [register(), deploy("d", kept()), follow("f", None)],
            ["r applied", "d applied", "f superseded submission.superseded"],
        ),
        (
            "a deployment overtakes a submission",
            [register(), submit("s1"), deploy("d", kept()), accept("s1")],
            ["r applied", "s1 superseded submission.superseded", "d applied"],
        ),
        (
            "back, and forth again",
            [*ENABLED, deploy("d", kept()), back("b1"), back("b2")],
            [
                "r applied",
                "s1 applied",
                "d applied",
                "b1 applied certificate.names_lost",
                "b2 applied",
            ],
        ),
        (
            "nothing to go back to",
            [*ENABLED, back()],
            ["r applied", "s1 applied", "b refused certificate.no_previous"],
        ),
        ("nor without HTTPS", [register(), back()], ["r applied", "b refused https.not_enabled"]),
        (
            "a foreign rollback",
            [*ENABLED, RollbackCommand(cause("b", "mallory"))],
            ["r applied", "s1 applied", "b refused domain.unknown"],
        ),
    ],
)
def test_deployments_and_rollbacks_end_as_the_rules_say(
    sentence: str, story: list[Any], ends: list[str]
) -> None:
    assert outcomes(play(story)[1]) == ends, sentence


def test_a_rollback_swaps_the_two_and_keeps_where_each_came_from() -> None:
    state, _ = play([*ENABLED, deploy("d", kept()), back()])
    assert state is not None and state.live is not None and state.previous is not None
    assert (state.live.source, state.previous.source, state.previous.name) == (
        "custom",
        "stored",
        TITLE,
    )


def test_a_rollback_to_an_expired_certificate_is_refused_and_changes_nothing() -> None:
    old = kept("old", "v0", not_after=AT + timedelta(days=1))
    state, _ = play([register(), deploy("d", old), deploy("e", kept())])
    events = domain_machine.decide(state, back(), CommandContext(AT + timedelta(days=2), 99))
    assert outcomes(events) == ["b refused certificate.expired"]
    assert scheduling.evolve_all(domain_machine, state, events) == state


def test_a_certificate_judged_by_other_roots_is_not_put_to_use() -> None:
    state, _ = play([register()])
    assert state is not None
    assert reuse_checks.contains_refusal(
        reuse_checks.find_faults(replace(kept(), trust="private"), state, AT)
    )
    assert not reuse_checks.contains_refusal(
        reuse_checks.find_faults(
            replace(kept(), trust="private"), replace(state, trust="private"), AT
        )
    )


def test_a_deployment_that_waits_for_the_library_holds_back_later_commands_until_overtaken() -> (
    None
):
    waiting: list[DomainCommand] = [
        register(),
        deploy("d", None, ready=False),
        redirect("to_https"),
    ]
    done = run_domain(None, waiting, range(1, 9))
    assert (done.ran, outcomes(done.events)) == (1, ["r applied"])
    done = run_domain(None, [*waiting, disable("x")], range(1, 9))
    assert outcomes(done.events) == [
        "r applied",
        "d superseded submission.superseded",
        "c refused https.not_enabled",
        "x unchanged",
    ]


def test_a_custom_certificate_gets_a_name_and_keeps_the_one_that_it_was_given() -> None:
    state, _ = play(ENABLED)
    assert state is not None and state.live is not None
    assert state.live.name.startswith(f"{NAME}-") and names.check_certificate_name(state.live.name)
    state, _ = play([register(), replace(submit("s1"), name="mine"), accept("s1")])
    assert state is not None and state.live is not None and state.live.name == "mine"
    assert names.check_certificate_name(names.generate_certificate_name(f"*.{'a' * 240}.com", "s"))


@pytest.mark.parametrize("text", ["", "a b", "ä", "a/b", "x" * 129, "@a", "a\n"])
def test_what_is_no_name_of_a_certificate_is_refused(text: str) -> None:
    with pytest.raises(Refused, match=r"certificate\.name_invalid"):
        names.check_certificate_name(text)


def test_a_deployment_takes_place_once_in_the_library_and_on_each_domain() -> None:
    domains = ["A.example.com", "a.example.com", "no domain", "no domain"]
    body = DeployCertificate(name=TITLE, account=OWNER, domains=domains)
    targets = command_parser.find_targets(body)
    assert [target.key for target in targets][:2] == [f"@{OWNER}/{TITLE}", "a.example.com"]
    assert [bool(target.findings) for target in targets] == [False, False, True]
    bad = command_parser.find_targets(body.model_copy(update={"name": "a b"}))
    assert bad[0].key == "a.example.com" and all(target.findings for target in bad)


@pytest.mark.parametrize(
    ("changed", "scheme", "codes"),
    [
        (
            {"redirect": Redirect(mode=RedirectMode.TO_HTTPS)},
            "http",
            ["settings.redirect_may_loop"],
        ),
        ({"redirect": Redirect(mode=RedirectMode.TO_HTTPS)}, "https", []),
        ({}, "http", []),
    ],
)
def test_a_redirect_to_https_over_an_http_origin_is_warned_of(
    changed: dict[str, Any], scheme: Any, codes: list[str]
) -> None:
    origin = Origin(scheme=scheme, host="origin.example.com", port=80)
    assert [
        found.code for found in settings_rules.find_warnings(Settings(**changed), origin)
    ] == codes


def test_http2_needs_tls_1_2() -> None:
    found = settings_rules.find_conflicts(Settings(http2=True, tls_min="1.0", tls_max="1.1"))
    assert [one.code for one in found] == [Code.SETTINGS_CONFLICT]


@pytest.mark.parametrize(
    ("sentence", "current", "wanted", "merged"),
    [
        (
            "a max-age alone leaves the rest",
            Hsts(max_age=60, include_subdomains=True, preload=True),
            {"max_age": 90},
            Hsts(max_age=90, include_subdomains=True, preload=True),
        ),
        (
            "a switch leaves the max-age",
            Hsts(max_age=60, include_subdomains=True),
            {"include_subdomains": False},
            Hsts(max_age=60),
        ),
        ("a max-age switches it on", None, {"max_age": 0}, Hsts(max_age=0)),
        ("nothing named is nothing changed", None, {}, None),
        ("off is off", Hsts(max_age=60, preload=True), "off", None),
    ],
)
def test_a_change_of_hsts_touches_only_what_it_names(
    sentence: str, current: Hsts | None, wanted: Any, merged: Hsts | None
) -> None:
    body = ChangeSettings.model_validate({"domain": NAME, "account": OWNER, "hsts": wanted})
    assert not settings_rules.find_missing(Settings(hsts=current), body)
    assert settings_rules.merge_settings(Settings(hsts=current), body).hsts == merged, sentence


def test_hsts_needs_a_max_age_to_be_switched_on() -> None:
    _, events = play([*ENABLED, change(hsts={"preload": True})])
    assert outcomes(events)[-1] == "c refused settings.conflict"


def test_roots_that_cannot_be_read_are_refused_whatever_is_wrong_with_them() -> None:
    sound = ssl.PEM_cert_to_DER_cert(Authority.create().pem)
    key_identifier, basic_constraints = b"\x55\x1d\x0e", b"\x55\x1d\x13"
    assert key_identifier in sound and basic_constraints in sound
    twice = ssl.DER_cert_to_PEM_cert(sound.replace(key_identifier, basic_constraints))
    with pytest.raises(Refused, match=r"roots\.invalid"):
        trust_roots.read_roots(twice)


def test_own_roots_are_ca_certificates_each_once_and_nothing_else() -> None:
    authority = Authority.create()
    assert len(trust_roots.read_roots(f"{authority.pem}\n{authority.pem}")) == 1
    assert trust_roots.read_roots("  \n") == []
    leaf = authority.issue([NAME])
    for text in (
        "nonsense",
        leaf.chain_pem,
        authority.pem + leaf.key_pem,
        authority.pem * 21,
        "-----BEGIN X-----",
    ):
        with pytest.raises(Refused, match=r"roots\.invalid"):
            trust_roots.read_roots(text)
