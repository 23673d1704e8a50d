"""The validator: is this chain and key fit to serve these domains?

It owns no data. It is the only service that ever sees a customer's private key in clear, and sees
it only in the memory of a worker process that dumps no core, dies with its parent and is replaced
after a number of jobs.

In    https.judge.submission.v1     a sealed pair or two, the domains, and the context that config
knows https.rpc.certificate.check.v1  the same as a dry run, which stores nothing epoch.<n>, sealing
(bucket) what to seal to; whom to trust is EDGETLS_TRUST_FILE, read at its start Out
https.verdict.submission.v1   every finding; for an accepted pair its canonical chain, its key
sealed to the fleet, and a signed attestation that nodes check

Guarantees
- A verdict lists every finding, never only the first; a check that cannot run is silent.
- The same submission gets the same pair ids, so that a redelivery agrees with the first verdict.
- No field, log line, error or dump repeats what was submitted; messages name blocks, subjects and
  fingerprints.
- A hostile submission costs at most three workers and then is refused
  (``certificate.unjudgeable``); others flow.
- A report fits any message: it counts the findings that it does not list, and a verdict that fits
  none is a refusal.
- What OpenSSL refuses for its name or path is refused; what more is stands on a list
  (test_openssl_agrees.py).

Read policies.py first: the rules as a list. ``python -m services.validator check --jsonl`` judges
offline, in a child that is killed and replaced where a line stalls it (guard.py).
"""
