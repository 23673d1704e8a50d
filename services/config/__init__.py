"""config: owns every domain's HTTPS state and history.

In   COMMANDS_CONFIG: https.cmd.domain.register|remove, certificate.submit, https.disable, settings.change and
     pair.reseal, each .v1; JUDGING: https.verdict.submission.v1; EVENTS: https.event.edge.converged.v1
Out  JUDGING: https.judge.submission.v1; EVENTS: https.event.domain.registered|removed|changed.v1 and
     https.event.command.settled.v1; asks https.rpc.edge.max_revision.v1
Asked  https.rpc.domain.show|list|history, submission.show, bundle.get|page, pair.sealed, dead.<verb> of its own

Guarantees
- Every command ends in exactly one command.settled for its domain, with an outcome that history keeps.
- A domain's commands take effect in the order of their stream, each once, with any number of replicas; a submission
  that is being judged holds the later ones back, unless a later submission, disable or removal overtakes it.
- State, history and messages are one transaction; every change has a revision above all before it.
- A refused, undecided or superseded submission leaves the live certificate as it was. After a disable nothing of the
  pair is left. Keys are only carried, sealed for somebody else; nothing here can open one.
"""
