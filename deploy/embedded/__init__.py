"""The whole platform on one machine: NATS, PostgreSQL, the four services and the nodes, from
wheels, supervised.

``platform.EmbeddedPlatform`` starts, watches and stops it. ``down.stop_platform`` stops one from
another process, also when its supervisor has died. Everything is in one data folder (0700):
``run.json`` holds all addresses, ``logs/`` the output of each process.
"""
