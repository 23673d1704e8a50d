"""Where customers' keys are in clear: worker processes that can be limited, killed and replaced.

It starts and watches processes and talks to them through pipes. It uses no network, no broker and
no file but /proc and the trust roots. ``pool`` is the way in for the service, ``forked_child`` for
the offline check.
"""
