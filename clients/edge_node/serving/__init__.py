"""Bringing bundles into nginx: opening and checking pairs (`preparation`), putting and undoing
(`apply`), the local handshake that proves a bundle (`prover`), addresses of origins (`origins`) and
refilling an empty nginx (`nginx_watcher`).

This is the only room that holds private keys in clear. It may touch the data plane, the replica and
name servers, and uses no NATS.
"""
