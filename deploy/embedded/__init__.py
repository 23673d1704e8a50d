"""The whole platform on one machine: NATS, PostgreSQL, the four services and the nodes, from
wheels, supervised.

``platform.Platform`` starts, watches and stops it; ``down.down`` stops one that runs elsewhere,
dead supervisor or not. Everything lives in one data folder (0700): ``run.json`` tells where
everything is, ``logs/`` what it said.
"""
