"""Wires the validator."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn

from services.validator.sandbox.sealed_judge import Secrets
from services.validator.sealing_epoch import CurrentEpoch
from services.validator.settings import Settings
from services.validator.transport import query_router
from services.validator.usecases import Judging
from shared import runtime as service
from shared import subjects
from shared.crypto.sealing import PrivateKey
from shared.errors import CannotOpen, SettingsError
from shared.messaging.consumer import Consumer
from shared.messaging.dead_letter_service import DeadLetterService, dead_letter_router
from shared.messaging.dead_letters import DeadLetters
from shared.messaging.pull import Pull
from shared.runtime import Runtime, read_signer
from shared.settings import read_secret

CONCURRENCY = (
    256  # half of the pool's queue, so that even one account's flood is taken from the stream
)


async def build(runtime: Runtime[Settings]) -> Sequence[Coroutine[Any, Any, None]]:
    settings = runtime.settings
    epoch = CurrentEpoch(runtime.client, runtime.trust(), runtime.health)
    judging = Judging(
        _secrets(runtime),
        settings.trust_roots_file,
        settings.validator_workers,
        epoch,
        runtime.publisher,
        runtime.clock,
    )
    await judging.start()
    runtime.broker.include_router(query_router(judging))
    runtime.broker.include_router(
        dead_letter_router(
            "validator", DeadLetterService(runtime.client, runtime.publisher, "validator")
        )
    )
    pull = Pull(
        runtime.client, subjects.STREAM_JUDGING, subjects.DURABLE_VALIDATOR, batch=CONCURRENCY
    )
    dead = DeadLetters(runtime.publisher, subjects.DEAD_OWNERS["validator"][0])
    consumer = Consumer(
        pull,
        lambda delivery: judging.judge(delivery, pull),
        dead,
        runtime.health,
        concurrency=CONCURRENCY,
    )
    return [epoch.watch(), judging.watch_roots(), consumer.run()]


def _secrets(runtime: Runtime[Settings]) -> Secrets:
    """SettingsError when the key file is not the submission key that the trust document tells
    submitters."""
    path = runtime.settings.submission_private_key_file
    text = read_secret(path, "EDGETLS_SUBMISSION_PRIVATE_KEY_FILE")
    try:
        public = PrivateKey(text).public().text
    except CannotOpen as error:
        raise SettingsError(f"EDGETLS_SUBMISSION_PRIVATE_KEY_FILE {path}: {error}") from None
    if public != runtime.trust().submission_key():
        raise SettingsError(
            f"EDGETLS_SUBMISSION_PRIVATE_KEY_FILE {path} is not the key of the trust document"
        )
    signer = read_signer(
        runtime.settings.validator_signing_key_file, "EDGETLS_VALIDATOR_SIGNING_KEY_FILE"
    )
    return Secrets(submission_keys=[text], signer_id=signer.key_id, signer_key=signer.text())


def run() -> NoReturn:
    service.run("validator", Settings, build)
