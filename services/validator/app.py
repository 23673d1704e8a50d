"""The composition root of the validator."""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from typing import Any, NoReturn

from services.validator.sandbox.sealed_judge import WorkerSecrets
from services.validator.sealing_epoch import CurrentEpoch
from services.validator.settings import ValidatorSettings
from services.validator.transport import query_router, submission_consumer
from services.validator.usecases import JudgingUseCases
from shared import runtime as service
from shared.crypto.sealing import PrivateKey
from shared.errors import CannotOpen, SettingsError
from shared.messaging.dead_letter_service import DeadLetterService, dead_letter_router
from shared.runtime import Runtime, read_signer
from shared.settings import read_secret

NAME = "validator"


def run() -> NoReturn:
    service.run(NAME, ValidatorSettings, build)


async def build(runtime: Runtime[ValidatorSettings]) -> Sequence[Coroutine[Any, Any, None]]:
    """Start the workers and bind the queries; return what runs until the end.

    Raises SettingsError for a wrong key, and EdgetlsError when a worker does not start.
    """
    settings = runtime.settings
    epoch = CurrentEpoch(runtime.client, runtime.trust(), runtime.health)
    judging = JudgingUseCases(
        _read_worker_secrets(runtime),
        settings.trust_roots_file,
        settings.validator_workers,
        epoch,
        runtime.publisher,
        runtime.clock,
    )
    await judging.start()
    dead_letter_service = DeadLetterService(runtime.client, runtime.publisher, NAME)
    runtime.broker.include_router(query_router(judging))
    runtime.broker.include_router(dead_letter_router(NAME, dead_letter_service))
    consumer = submission_consumer(runtime, judging)
    return [epoch.watch(), judging.watch_trust_roots(), consumer.run()]


def _read_worker_secrets(runtime: Runtime[ValidatorSettings]) -> WorkerSecrets:
    """Read the submission key and the signing key.

    Raises SettingsError when the submission key is not the one of the trust document, to which
    submitters seal.
    """
    path = runtime.settings.submission_private_key_file
    key = read_secret(path, "EDGETLS_SUBMISSION_PRIVATE_KEY_FILE")
    try:
        public_key = PrivateKey(key).public().text
    except CannotOpen as error:
        raise SettingsError(f"EDGETLS_SUBMISSION_PRIVATE_KEY_FILE {path}: {error}") from None
    if public_key != runtime.trust().submission_key():
        raise SettingsError(
            f"EDGETLS_SUBMISSION_PRIVATE_KEY_FILE {path} is not the key of the trust document"
        )
    signer = read_signer(
        runtime.settings.validator_signing_key_file, "EDGETLS_VALIDATOR_SIGNING_KEY_FILE"
    )
    return WorkerSecrets(submission_keys=[key], signer_id=signer.key_id, signer_key=signer.text())
