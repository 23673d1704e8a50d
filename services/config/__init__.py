"""config: owns every domain's HTTPS state and history, and each account's certificate library and
own roots.

In   COMMANDS_CONFIG: https.cmd.domain.register|remove,
certificate.submit|store|deploy|delete|rollback, https.disable, settings.change, roots.set,
account.resumption|resume and pair.reseal, each .v1; JUDGING: https.verdict.submission.v1; EVENTS:
https.event.edge.converged.v1, https.event.balance.overdue|settled.v1 Out  JUDGING:
https.judge.submission.v1; EVENTS: https.event.domain.registered|removed|changed.v1,
https.event.command.settled.v1 and https.event.certificate.expiring|expired.v1; asks
https.rpc.edge.max_revision.v1 Asked  https.rpc.domain.show|list|history, account.show,
submission.show, command.show|preview, certificate.show|list|usage, roots.show, bundle.get|page,
pair.sealed, dead.<verb> of its own

Guarantees
- Every command ends in exactly one command.settled for each of its domains (for the library, one
  without a domain), with an outcome that history keeps.
- A domain's commands take effect in the order of their stream, each once, with any number of
  replicas; a submission that is being judged holds the later ones back, unless a later submission,
  deployment, disable or removal that is not refused itself overtakes it. So do an entry's in the
  library; a deployment takes its turn in the library first, then on each domain.
- State, history and messages are one transaction; every change has a revision above all before it.
  What the history keeps of a change rebuilds the rows, but for the pairs.
- Each notice of a certificate's end is given once, by the certificate that is served. An overdue
  account's domains are suspended, later ones too, and resumed as it is set.
- A refused, undecided or superseded submission leaves the live certificate as it was. After a
  disable nothing of the pair is left but the account's own library entry. Keys are only carried,
  sealed for somebody else; nothing here can open one.
"""
