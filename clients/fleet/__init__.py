"""The operator's side of the fleet: the fleet file, credentials of nodes, and signed commands.

Owns nothing online: it reads and writes files, and builds commands that ``publish.send_commands``
hands to a broker. The fleet file holds the operator's signing key and the private key of every
epoch: anyone with this file controls the fleet.
"""
