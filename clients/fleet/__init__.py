"""The operator's side of the fleet: the fleet file, node credentials, and the signed commands that
change the fleet.

Owns nothing online: it reads and writes files, and builds commands that ``publish.send`` hands to a
broker. The fleet file holds the operator's signing key and every epoch's private key: whoever has
it owns the fleet.
"""
