"""The validator: is this chain and key fit to serve these domains?

It owns no data. It is the only service that ever sees a customer's private key in clear, and only
in the memory of a worker process that dumps no core, dies with its parent and is replaced after a
number of jobs.

Subjects
- in: https.judge.submission.v1 - one sealed pair or two, the domains, and the context that config
  knows
- in: https.rpc.certificate.check.v1 - the same as a dry run, which stores nothing
- in: epoch.<n> and sealing (keyring bucket) - the epoch to seal to
- out: https.verdict.submission.v1 - every finding; for an accepted pair its canonical chain, its
  key sealed to the fleet, and a signed attestation that nodes check
The keys that it trusts are in EDGETLS_TRUST_FILE, read at its start.

Guarantees
- A verdict lists every finding, never only the first. A check that cannot run is silent.
- The same submission gets the same pair ids, so a redelivery agrees with the first verdict.
- No field, log line, error or dump repeats what was submitted. Messages name blocks, subjects and
  fingerprints.
- A hostile submission costs at most three workers and then is refused
  (``certificate.unjudgeable``); the others are judged meanwhile.
- A report fits any message: it counts the findings that it does not list, and a verdict that fits
  no message is a refusal.
- What OpenSSL refuses for its name or path is refused. What is refused besides is on a list
  (test_openssl_agrees.py).

Rooms
- checks: the rules for a pair. Read policies.py first: the rules as a list. field_checks.py finds a
  private key in the certificate field. judge.py adds up the findings to a judgement.
- text: the two text fields. pem.py splits PEM into blocks, embedded_keys.py helps it to find
  a key outside of the blocks, other_formats.py recognises DER, PKCS#12 and others.
- keys: private keys. private_key.py reads one and proves that it belongs to the leaf, rsa.py finds
  weak ones.
- x509: certificates. certificates.py reads one, chains.py builds the chain to a trusted root,
  paths.py validates a path.
- sandbox: worker processes. pool.py runs them, sealed_judge.py opens a sealed submission and seals
  its key for the fleet.
- offline.py: ``python -m services.validator check --jsonl``, in a child that is killed and replaced
  where a line stalls it (sandbox/forked_child.py).
- mozilla_roots.py reads the trust roots from a file; sealing_epoch.py follows the epoch to seal to.
checks, text, keys and x509 are pure.
"""
