"""config: owns every domain's HTTPS state and history, and each account's certificate library and
own roots.

Takes, each .v1
- COMMANDS_CONFIG: https.cmd.domain.register|remove,
  certificate.submit|store|deploy|delete|rollback, https.disable, settings.change, roots.set,
  account.resumption|resume, pair.reseal
- JUDGING: https.verdict.submission
- EVENTS: https.event.edge.converged, https.event.balance.overdue|settled
Sends, each .v1
- JUDGING: https.judge.submission
- EVENTS: https.event.domain.registered|removed|changed, https.event.command.settled,
  https.event.certificate.expiring|expired
Asks https.rpc.edge.max_revision.v1.
Answers https.rpc.domain.show|list|history, account.show, submission.show, command.show|preview,
certificate.show|list|usage, roots.show, bundle.get|page, pair.sealed, each .v1, and dead.<verb> of
its own dead letters.

Guarantees
- Every command ends in exactly one command.settled for each of its domains (for the library, one
  without a domain), with an outcome that history keeps.
- A domain's commands take effect in the order of their stream, each once, with any number of
  replicas. A submission that is being judged holds the later ones back, unless a later submission,
  deployment, disable or removal that is not refused overtakes it. The same holds for an entry of
  the library. A deployment takes its turn in the library first, then on each domain.
- State, history and messages are one transaction. Every change has a revision above all before it.
  What history keeps of a change rebuilds the rows, all but the pairs.
- Only time in which a validator was there counts against the deadline of a judgement.
- Each notice of a certificate's end is given once, for the certificate that is served. The domains
  of an overdue account are suspended, later ones too, and resumed as the account has set it.
- A refused, undecided or superseded submission leaves the live certificate as it was. After a
  disable nothing of the pair is left but the account's own library entry. Keys are only carried,
  sealed to others: nothing here can open one.
"""
